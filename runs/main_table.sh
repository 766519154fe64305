#!/usr/bin/env bash
# The papers' main table: four sets, each by ground truth, AI and combined feedback. A key is needed.
set -euo pipefail
cd "$(dirname "$0")/.."
for name in strategyqa gsm8k scienceqa; do
  for judge in truth ai combined; do runs/experiment.sh "$name" "$judge"; done
done
for judge in ai combined; do runs/experiment.sh truthfulqa "$judge"; done
