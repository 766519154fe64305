# One Makefile; CI calls only `check` and `test`. Every target sets up .venv by itself the first time.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
BOX := src/trimtab/llm/embedded
# Compiled files save each of the tests' processes half a second.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test unit slow stores simulate system check inspect bench bench-serve serving-loop docs blackbox clean

demo: $(READY)
	$(BIN)/trimtab demo

test: unit slow stores

unit: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -p no:schemathesis -m "not slow and not gpu" tests/unit

slow: $(READY) system
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "slow" tests/slow

# Every law of the store once more, on a PostgreSQL server of the tests' own.
stores: $(READY) system
	$(BIN)/pytest -n 2 -p no:schemathesis --stores postgresql tests/unit/test_store*.py tests/unit/test_promotion_versions.py

# Inspect measures what we serve: it wants a newer openai than litellm takes, so it lives in an environment of its own.
INSPECT := .venv-inspect/bin/python
inspect: $(READY) $(INSPECT)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 0 -m "slow" tests/slow/test_serve_live.py -k inspect

$(INSPECT):
	$(PYTHON) -m venv $(dir $(INSPECT))..
	$(INSPECT) -m pip install --quiet --disable-pip-version-check "inspect-ai==0.3.285" "openai>=3.4,<4"

# Time, dollars and bottleneck of big runs, forecast from measured constants (docs/scaling.md).
simulate: $(READY)
	$(BIN)/python scripts/simulate.py

# What only tests of the page (a browser) and of the shared store (a database server) need. Without the right to
# install packages those tests skip and say so.
system:
	@command -v chromium >/dev/null && ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium postgresql >/dev/null; } || \
	  echo "chromium or PostgreSQL is missing and cannot be installed: their tests skip"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# On recorded answers where they lie beside the checkout, else on texts that are made up.
RECORDED ?= $(wildcard ../shared/data/generation)
bench: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/bench.py $(if $(RECORDED),--recorded $(RECORDED))

# The server's own: what it adds to each call, the highest rate, memory over 100,000 requests (about half an hour).
bench-serve: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/bench_serve.py

# The online loop over the wire: serve, ask, say what was right, train, promote, ask again (a quarter of an hour).
serving-loop: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/lab_serving_loop.py

# Rebuilds docs/cli.md from the commands themselves.
docs: $(READY)
	$(BIN)/python scripts/write_cli_docs.py

# Trains the embedded black box again, from nothing (under two hours on two cores).
blackbox: $(READY)
	$(BIN)/python scripts/train_blackbox.py --steps 3450 --seed 1 --out $(BOX)/blackbox-early.safetensors
	$(BIN)/python scripts/train_blackbox.py --steps 2130 --seed 2 --rate 0.012 \
	  --start $(BOX)/blackbox-early.safetensors --out $(BOX)/blackbox.safetensors

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[all,dev]"
	touch $(READY)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .trimtab
