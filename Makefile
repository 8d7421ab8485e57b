# Two commands do all the set-up: `make run` and `make test`. Both may be repeated.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)
# compiling torch and scikit-learn anew would take half of each short run
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test lint format viz repro benchmark clean

run: $(STAMP)  ## create the environment, train RIDE on the built-in digits, write the report
	$(BIN)/kedro run --pipeline=ride

test: $(STAMP)  ## the whole suite
	$(BIN)/python -m pytest -n auto --maxprocesses=4 --dist loadfile --no-loadscope-reorder --durations=10

lint: $(STAMP)  ## style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

viz: $(STAMP)  ## lineage in the browser
	$(BIN)/kedro viz run

repro: $(STAMP)  ## the default benchmark through DVC
	$(BIN)/dvc repro

benchmark: $(STAMP)  ## the figures of docs/PERFORMANCE.md
	$(BIN)/python benchmarks/augment.py && $(BIN)/python benchmarks/training.py

$(STAMP): pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
