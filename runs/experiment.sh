#!/usr/bin/env bash
# One experiment: adapts by its file in experiments/ and evaluates on its dev questions.
set -euo pipefail
cd "$(dirname "$0")/.."
#   runs/experiment.sh NAME [JUDGE] [further flags of `trimtab adapt`]
# Data lie in data/ as docs/data.md describes; REPORTS names where the adapters and the reports go.
name=$1 judge=${2:-truth}
shift $(( $# > 1 ? 2 : 1 ))
out=${REPORTS:-reports}/$name-$judge${TAG:+-$TAG}
config=experiments/$name.toml
trimtab adapt "$config" --judge "$judge" --out "$out/adapter" "$@"
kind=questions
grep -q '^recorded' "$config" && kind=recorded
train=$(sed -n "s/^$kind = \"\(.*\)\".*/\1/p" "$config")
trimtab evaluate "$config" --adapter "$out/adapter" "--$kind" "${train%train.jsonl}dev.jsonl" --out "$out"
