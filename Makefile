# Everything a fresh clone needs: `make demo` trains and prints text, `make test` passes the tests.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The torch build. For CUDA: make demo TORCH="torch==2.13.0" TORCH_INDEX="--index-url URL".
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
PYTEST ?= $(BIN)/python -m pytest
RECIPE ?= recipes/wikitext_tiny.toml
# Tests run in that many processes, with one PyTorch thread each.
JOBS ?= 2
# Short files come last, so that no process waits for another one's long file.
# The slowest tests are named at the end: a test run has to stay short.
SIDE_BY_SIDE := --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder --durations 20

.PHONY: demo test test-full test-mutations lint types docs build clean

$(VENV)/.base: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH_INDEX) "$(TORCH)" -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,docs]"
	touch $@

demo: $(VENV)/.base
	$(BIN)/forge train $(RECIPE)

test test-full: export OMP_NUM_THREADS ?= 1

test: $(VENV)/.dev
	$(PYTEST) $(SIDE_BY_SIDE) -m "not slow"

test-full: $(VENV)/.dev
	$(PYTEST) $(SIDE_BY_SIDE)

test-mutations: $(VENV)/.dev
	$(BIN)/python tests/mutations.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

build: $(VENV)/.dev
	$(BIN)/python -m build

clean:
	rm -rf build dist site .mypy_cache .ruff_cache
