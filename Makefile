# Each target sets up what it needs on a fresh clone: a virtual environment and the tested versions.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: sweep test check slow soak clean

sweep: $(INSTALLED)  ## run the quickstart sweep and print its recommendation
	$(BIN)/isoflop launch quickstart

test: $(INSTALLED)  ## everything that takes less than minutes; files of tests two at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(INSTALLED)  ## what takes minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

soak: $(INSTALLED)  ## random faults on a cluster of several hosts; needs root and Linux
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.cluster.soak

check: $(INSTALLED)  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "isoflop needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:  ## remove the virtual environment; stores and caches stay
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
