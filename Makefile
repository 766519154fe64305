# One Makefile; CI calls only `check` and `test`. Every target sets up .venv by itself the first time.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test unit slow check bench docs blackbox clean

demo: $(READY)
	$(BIN)/trimtab demo

test: unit slow

unit: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow and not gpu" tests

slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "slow" tests

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/bench.py

# Rebuilds docs/cli.md from the commands themselves.
docs: $(READY)
	$(BIN)/python scripts/write_cli_docs.py

# Trains the embedded black box again, from nothing (under two hours on two cores).
blackbox: $(READY)
	$(BIN)/python scripts/train_blackbox.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[all,dev]"
	touch $(READY)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .trimtab
