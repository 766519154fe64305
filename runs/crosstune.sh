#!/usr/bin/env bash
# CrossTune's table with its baselines and ablations (docs/lab-classification.md).
set -euo pipefail
cd "$(dirname "$0")/.."
python scripts/lab_classification.py "${DATA:-data}" --on devtest --out "${REPORTS:-reports}/crosstune.jsonl" "$@"
