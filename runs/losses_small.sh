#!/usr/bin/env bash
# The losses on recorded answers: every cell of docs/lab.md, then its table.
set -euo pipefail
cd "$(dirname "$0")/.."
python scripts/lab_recorded.py "${DATA:-data}" "$@"
python scripts/lab_recorded.py "${DATA:-data}" --table
