# Needs python3 with venv, and make. Everything is installed in $(VENV).
PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
RUN_STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev

# What `test-lowest` and `test-newest` run: the modules that lean on other libraries, and each kind of training once.
VERSION_TESTS := $(addprefix tests/, \
    test_modeling_tsf_llm.py test_decoding_tsf_llm.py test_products_tsf_llm.py test_experts_tsf_llm.py \
    test_pipeline_tsf_llm.py test_bars_tsf_llm.py test_cells_tsf_llm.py test_feature_extraction_tsf_llm.py \
    test_processing_tsf_llm.py test_remote_code.py data_prep/test_tables.py \
    train_scripts/test_sft.py::test_leaves_a_model_its_processor_and_a_report \
    train_scripts/test_dpo.py::test_leaves_a_model_its_processor_and_a_report \
    train_scripts/test_dpo.py::test_lines_tune_a_regression_head \
    train_scripts/test_lora.py::test_leaves_the_base_an_adapter_per_ticker_and_a_report \
    test_calendars_tsf_llm.py::test_intraday_bars_do_not_cross_the_close \
    data_prep/test_prepare.py::test_a_corrected_bar_is_found \
    data_prep/test_yahoo.py::test_prices_are_those_of_yfinance \
    evaluation/baselines/test_classical.py \
    benchmarks/test_fev_model.py benchmarks/test_fev_bench.py \
    serving/test_streaming.py serving/http/test_app.py)

.DEFAULT_GOAL := help
.PHONY: help quickstart pretrain test test-slow test-lowest test-newest quality style clean

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' Makefile

quickstart: $(RUN_STAMP)  ## Train, forecast, evaluate and plot on the embedded sample, offline.
	@$(BIN)/tsf-llm quickstart --out quickstart

pretrain: $(RUN_STAMP)  ## Train a model to ship: DATA="a.parquet b.parquet" [MARKET="..."] [CONFIG=pretrain_mini] [OUT=...].
	@$(BIN)/python -m tsf_llm.train_scripts.pretrain --config train_scripts/configs/$(or $(CONFIG),pretrain).yaml \
	    $(if $(DATA),--data $(DATA)) $(if $(MARKET),--market $(MARKET)) --output_dir $(or $(OUT),outputs/pretrain)

test: $(DEV_STAMP)  ## Run the tests, all but the slow ones.
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile

test-slow: $(DEV_STAMP)  ## Run the slow tests.
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q -m "slow and not gpu"

test-lowest: $(VENV)-lowest-direct/.installed  ## Run the main tests on the lower bounds of setup.py.
	@OMP_NUM_THREADS=1 $(<D)/bin/pytest -q -n 2 --dist loadfile $(VERSION_TESTS)

test-newest: $(VENV)-highest/.installed  ## Run the main tests on the newest releases.
	@OMP_NUM_THREADS=1 $(<D)/bin/pytest -q -n 2 --dist loadfile $(VERSION_TESTS)

quality: $(DEV_STAMP)  ## Check lint, format and types.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@mkdir -p $(VENV)/src && ln -sfn "$(CURDIR)" $(VENV)/src/tsf_llm
	@MYPYPATH=$(VENV)/src $(BIN)/mypy

style: $(DEV_STAMP)  ## Fix lint and format.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## Remove .venv, caches and outputs.
	@rm -rf .venv .venv-lowest-direct .venv-highest quickstart build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
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

# Environments named after uv's resolutions; torch stays at the tested version, installed by pip: uv, or another
# version, would bring gigabytes of CUDA libraries. "Newest" is that of the day: `make clean` renews it. The lowest pandas
# and datasets are those that statsforecast and fev run with.
$(VENV)-lowest-direct/.installed: EXTRAS := dev,statsforecast,fev
$(VENV)-highest/.installed: EXTRAS := dev
$(VENV)-lowest-direct/.installed $(VENV)-highest/.installed: setup.py constraints.txt
	@echo "Installing the $(patsubst $(VENV)-%,%,$(@D)) versions in $(@D)"
	@$(PYTHON) -m venv --clear $(@D)
	@grep "^torch==" constraints.txt > $(@D)/torch.txt
	@$(@D)/bin/python -m pip --disable-pip-version-check --quiet install --no-compile uv -r $(@D)/torch.txt
	@VIRTUAL_ENV="$(abspath $(@D))" $(@D)/bin/uv pip install --quiet -e ".[$(EXTRAS)]" -c $(@D)/torch.txt \
	    --resolution $(patsubst $(VENV)-%,%,$(@D))
	@touch $@
