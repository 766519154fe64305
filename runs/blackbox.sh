#!/usr/bin/env bash
# The embedded black box by step-by-step search, from nothing: its questions, its server, adapter and report.
set -euo pipefail
cd "$(dirname "$0")/.."
trimtab blackbox --problems 300 --problem-seed 0 > house-train.jsonl
trimtab blackbox --problems 150 --problem-seed 1 > house-dev.jsonl
trimtab blackbox --port 8765 &
server=$!
trap 'kill $server' EXIT
until curl --silent --fail http://127.0.0.1:8765/v1/models > /dev/null; do sleep 1; done
out=${REPORTS:-reports}/blackbox-small
trimtab adapt experiments/blackbox-small.toml --out "$out/adapter"
trimtab evaluate experiments/blackbox-small.toml --adapter "$out/adapter" --questions house-dev.jsonl --out "$out"
