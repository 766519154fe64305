#!/usr/bin/env bash
# The cost table: single draw, single-step and full search on the same questions, in dollars. A key is needed.
set -euo pipefail
cd "$(dirname "$0")/.."
for name in strategyqa gsm8k; do
  runs/experiment.sh "$name" truth
  TAG=single runs/experiment.sh "$name" truth --search single
done
