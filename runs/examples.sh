#!/usr/bin/env bash
# The example reports in docs/examples: quick adapters of two passes on three recorded sets.
set -euo pipefail
cd "$(dirname "$0")/.."
work=${REPORTS:-reports}/examples
for name in worldtree strategyqa date_gpt35; do
  trimtab adapt --recorded "${DATA:-data}/$name/train.jsonl" --backbone offline --bf16 --epochs 2 --max-negatives 4 \
    --out "$work/$name/adapter"
  trimtab evaluate --adapter "$work/$name/adapter" --recorded "${DATA:-data}/$name/dev.jsonl" \
    --usd-per-million-in 0.5 --usd-per-million-out 1.5 --out "$work/$name"
  cp "$work/$name/report.html" "docs/examples/$name.html"
done
