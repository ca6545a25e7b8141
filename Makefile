# Needs python3 with venv, and make. Everything is installed in $(VENV).
PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
RUN_STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow quality style clean

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' Makefile

quickstart: $(RUN_STAMP)  ## Train, forecast, evaluate and plot on the embedded sample, offline.
	@$(BIN)/tsf-llm quickstart --out quickstart

test: $(DEV_STAMP)  ## Run the tests, all but the slow ones.
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile

test-slow: $(DEV_STAMP)  ## Run the slow tests.
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q -m "slow and not gpu"

quality: $(DEV_STAMP)  ## Check lint, format and types.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@mkdir -p $(VENV)/src && ln -sfn "$(CURDIR)" $(VENV)/src/tsf_llm
	@MYPYPATH=$(VENV)/src $(BIN)/mypy

style: $(DEV_STAMP)  ## Fix lint and format.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## Remove .venv, caches and outputs.
	@rm -rf .venv quickstart build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip comes last in a new environment: one that was left unfinished is made again.
$(BIN)/pip:
	@echo "Creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)

# The stamps are touched last: an installation that failed is tried again.
# A dev install includes a plain one, so it leaves both stamps.
$(RUN_STAMP): setup.py constraints.txt | $(BIN)/pip
	@echo "Installing tsf-llm (the first time takes a few minutes)"
	@$(PIP) install -e . -c constraints.txt
	@touch $@

$(DEV_STAMP): setup.py constraints.txt | $(BIN)/pip
	@echo "Installing tsf-llm and its development tools (the first time takes a few minutes)"
	@$(PIP) install -e ".[dev]" -c constraints.txt
	@touch $(RUN_STAMP) $@
