# Everything runs in .venv, which is made on demand; Python 3.11 or newer, make and pip are all that must be there.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := runs/demo
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
# make bench SMOKE=1 runs every benchmark briefly: an error fails, a gross regression is named, the numbers are rough.
SMOKE ?=
PYTEST_ARGS ?=

.PHONY: page page-check help demo test lint types docs bench clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help:
	@echo "make demo    train a digit model, sample it and measure it: about three minutes on two cores"
	@echo "make test    the fast test suite"
	@echo "make lint    style and spelling"
	@echo "make types   static types"
	@echo "make docs    the documentation, as web pages in docs/_build/html"
	@echo "make bench   the benchmarks (SMOKE=1: see that they run)"
	@echo "make page    build the live page from page/ (needs Node.js; the built files are committed)"
	@echo "make clean   remove caches and built pages; .venv and runs/ stay"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "condiff needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A stamp says which extras are installed, and is older than what decides about them.
$(VENV)/.base: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e .
	@touch $@

$(VENV)/.extra-%: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[$*]'
	@touch $@

demo: $(VENV)/.base
	@rm -rf $(RUN)
	$(BIN)/condiff train digits --out $(RUN) --seconds 125
	$(BIN)/condiff sample $(RUN) -n 100 --out $(RUN)/samples/sample.png
	$(BIN)/condiff eval $(RUN) --quick -n 500
	@echo
	@echo "Look at:"
	@echo "  $(RUN)/report.html          everything on one page"
	@echo "  $(RUN)/samples/sample.png   100 guided samples, one column a class"
	@echo "  $(RUN)/loss.png             the loss curve; the numbers are in $(RUN)/metrics.jsonl"
	@echo "  $(RUN)/eval.json            every metric with its definition and interval"
	@echo "  $(RUN)/model.safetensors    the checkpoint: enough by itself"
	@echo "Go on with: $(BIN)/condiff sample $(RUN) --cond label=3 --guidance-scale 3 --seed 1"

page:
	cd page && npm ci --no-audit --no-fund --silent && npm run --silent build

# The committed page is the build of its sources, byte for byte; without Node.js or its registry there is nothing to check with.
page-check:
	@command -v npm >/dev/null || { echo "no Node.js: the page is not built again"; exit 0; }; \
	(cd page && npm ci --no-audit --no-fund --silent) || { echo "npm ci failed: the page is not built again"; exit 0; }; \
	(cd page && npm run --silent build) && git diff --exit-code --stat -- src/condiff/serve/web

test: $(VENV)/.extra-test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.extra-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(VENV)/.extra-dev
	$(BIN)/mypy

docs: $(VENV)/.extra-docs
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# Neighbours that are not installed are left out, by name: pip install -e '.[neighbours]' brings them.
bench: $(VENV)/.base
	$(BIN)/python benchmarks/run.py $(if $(SMOKE),--smoke)

clean:
	rm -rf docs/_build build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests docs benchmarks examples tools -name __pycache__ -type d -prune -exec rm -rf {} +
