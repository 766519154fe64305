#!/usr/bin/env bash
# The same on recorded answers, and AI, combined and human feedback on the embedded black box.
set -euo pipefail
cd "$(dirname "$0")/.."
for name in strategyqa gsm8k scienceqa; do runs/experiment.sh "$name-small"; done
python scripts/lab_judges.py --learn 100 --test 150 --seeds 0 1 2 --judges ai human
python scripts/lab_judges.py --learn 100 --test 150 --judges combined truth
python scripts/lab_truthfulqa.py "${DATA:-data}" --seeds 0
