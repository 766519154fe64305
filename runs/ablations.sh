#!/usr/bin/env bash
# Ablations at full scale: losses, beams, rounds, sizes, single-step. A key, the hub and a GPU are needed.
set -euo pipefail
cd "$(dirname "$0")/.."
base=${1:-strategyqa}
for loss in ranking_nce mlm pooled bce bradley_terry; do
  TAG=$loss runs/experiment.sh "$base" truth --loss "$loss" --search single
done
for width in 1 3 5; do TAG=beam$width runs/experiment.sh "$base" truth --width "$width"; done
for rounds in 0 1 2 3; do TAG=rounds$rounds runs/experiment.sh "$base" truth --rounds "$rounds"; done
for size in base large; do
  TAG=$size runs/experiment.sh "$base" truth --backbone "microsoft/deberta-v3-$size"
done
TAG=single runs/experiment.sh "$base" truth --search single
