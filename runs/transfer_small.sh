#!/usr/bin/env bash
# Plug and play on recorded answers of three families of models.
set -euo pipefail
cd "$(dirname "$0")/.."
python scripts/lab_transfer.py "${DATA:-data}" "$@"
