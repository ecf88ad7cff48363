# SPDX-License-Identifier: Apache-2.0
# One word per chore. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
AREA ?= gateway
FUZZ_SECONDS ?= 20
DATA ?= DATA

.DEFAULT_GOAL := help
.PHONY: help setup up test test-all check types bench fuzz docs lock clean

help: ## list the chores
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.core ## create .venv with what the product needs (leaves .venv/bin/shieldwall)

up: setup ## start the gateway and print its address and a curl line that works
	$(BIN)/shieldwall up --data $(DATA)

test: $(VENV)/.dev ## the quick tests; needs Python alone
	$(BIN)/python -m pytest -m "not slow"

test-all: $(VENV)/.dev ## the slow tests: kills, fuzzing, a real browser (system packages: see .ci/run)
	$(BIN)/python -m pytest -m slow --timeout 900

check: $(VENV)/.dev types ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## mypy, strict
	$(BIN)/mypy

bench: $(VENV)/.dev ## measure beside the peers: make bench AREA=gateway
	$(BIN)/python -m bench $(AREA)

fuzz: $(VENV)/.dev ## every parser against random and mutated input: make fuzz FUZZ_SECONDS=60
	$(BIN)/python -m tests.fuzz $(FUZZ_SECONDS)

docs: $(VENV)/.dev ## check that every link and every command in the docs is real
	$(BIN)/python -m pytest tests/test_docs.py

lock: ## resolve the locks anew from pyproject.toml
	$(PYTHON) -m venv $(VENV) && $(PIP) install uv
	$(BIN)/uv pip compile $(LOCK) pyproject.toml -o locks/core.lock
	$(BIN)/uv pip compile $(LOCK) -c locks/core.lock --extra ml pyproject.toml -o locks/ml.lock
	$(BIN)/uv pip compile $(LOCK) -c locks/ml.lock --extra ml --extra lab --group dev pyproject.toml -o locks/dev.lock
	$(BIN)/uv pip compile $(LOCK) --group pyproject.toml:build -o locks/build.lock

LOCK := -q --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command 'make lock'

clean: ## remove the environment and caches; never DATA
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/out

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Shieldwall needs Python 3.11 or newer; say which: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.python locks/ml.lock locks/build.lock pyproject.toml
	$(PIP) install --require-hashes -r locks/ml.lock
	$(PIP) install --require-hashes -r locks/build.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	@$(BIN)/shieldwall doctor >/dev/null  # compiles rules and kernels once and keeps them
	@touch $@

$(VENV)/.dev: $(VENV)/.core locks/dev.lock
	$(PIP) install --require-hashes -r locks/dev.lock
	@touch $@
