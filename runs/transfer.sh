#!/usr/bin/env bash
# Plug and play at full scale: the adapter of one model in front of others, untouched. A key is needed.
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:-strategyqa}
adapter=${REPORTS:-reports}/$name-truth/adapter
[ -d "$adapter" ] || runs/experiment.sh "$name"
for model in davinci-002 gpt-4o-mini; do
  trimtab evaluate "experiments/$name.toml" --adapter "$adapter" --model "$model" \
    --questions "data/${name}_questions/dev.jsonl" --out "${REPORTS:-reports}/$name-on-$model"
done
