# Newcomers need two of these: `make serve` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

# Tests run in a process for each core, eight at most; `make test PARALLEL=` runs them one by one.
PARALLEL := --numprocesses auto --maxprocesses 8 --dist worksteal

.PHONY: help setup serve test test-all check gpu-check format docs clean

help:
	@echo "make serve    install, then serve the shipped models on http://127.0.0.1:8000"
	@echo "make test     install, then run the tests but for the slow ones"
	@echo "make test-all install, then run the tests, and after them the slow ones"
	@echo "make check    format, lint, strict types and make test"
	@echo "make gpu-check  on a CUDA machine with torch: all that a GPU changes, into gpu-check.md; installs nothing"
	@echo "make format   put the code into its format"
	@echo "make docs     the manual, in site/"
	@echo "make setup    the virtual environment alone, in $(VENV)"
	@echo "make clean    remove the virtual environment and caches"

$(VENV)/.serve: pyproject.toml client/pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable . --editable './client[sklearn]'
	touch $@

$(VENV)/.dev: $(VENV)/.serve
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[dev]' --editable './client[sklearn,activeml,label-studio]'
	touch $@

setup: $(VENV)/.dev

serve: $(VENV)/.serve
	$(BIN)/bmaml-serve

test: setup
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

# Few and long: the last ones go to whoever is free.
test-all: test
	$(BIN)/python -m pytest $(PARALLEL) --dist load --maxschedchunk 1 -m slow

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

# Python with torch is the machine's own: `make gpu-check PYTHON=python3.12 WHEELS=wheels`.
gpu-check:
	PYTHONPATH=.:client$${PYTHONPATH:+:$$PYTHONPATH} $(PYTHON) -m benchmarks.checks.gpu_check $(if $(WHEELS),--wheels $(WHEELS))

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup
	$(BIN)/python docs/make_reference.py
	$(BIN)/zensical build --clean --strict --config-file mkdocs.yml

clean:
	rm -rf $(VENV) site .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info client/build client/*.egg-info
