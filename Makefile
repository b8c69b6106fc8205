# Newcomers need two of these: `make serve` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup serve test check format docs clean

help:
	@echo "make serve    install, then serve the shipped models on http://127.0.0.1:8000"
	@echo "make test     install, then run the tests"
	@echo "make check    format, lint, strict types and tests"
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
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup
	$(BIN)/python docs/make_reference.py
	$(BIN)/zensical build --clean --strict --config-file mkdocs.yml

clean:
	rm -rf $(VENV) site .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info client/build client/*.egg-info
