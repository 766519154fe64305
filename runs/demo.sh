#!/usr/bin/env bash
# The demo's figures, from nothing (docs/lab.md).
set -euo pipefail
cd "$(dirname "$0")/.."
trimtab demo --force --out "${REPORTS:-reports}/demo"
