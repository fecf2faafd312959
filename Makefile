# make demo    environment, install, and the main job on the built-in miniature catalogue
# make test    environment, install, and the tests
# make bench   environment, install with torch and hnswlib, and every benchmark, short, in one table: about 20 minutes
# make lint    style, types and import contracts; make format fixes the style; make test-slow runs the long tests
#
# PYTHON=python3.12   the Python to build the environment with (3.11 or newer)
# VENV=.venv          where the environment lives
# WORKDIR=DIR         where the demo writes (the experiment's own folder if not given)
# ARGS="..."          more options: make demo ARGS="--stage=evaluate", make test ARGS="-k metrics",
#                     make bench ARGS="startup --out=results"

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A file stays together, since its tests share what they compiled; tests marked `apart` do not.
# tests/conftest.py puts the long files first. A process takes about 1 GB.
SIDE_BY_SIDE := -n auto --maxprocesses=4 --dist=loadgroup --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow bench lint format clean

help:
	@sed -n '/^$$/,$$d; s/^# \{0,1\}//p' Makefile

demo: $(VENV)/installed
	$(BIN)/python -m experiments.amazon --stage=all $(if $(WORKDIR),--workdir=$(WORKDIR)) $(ARGS)

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "slow and not gpu" --timeout=1500 $(ARGS)

bench: $(VENV)/installed-bench
	$(BIN)/python benchmarks/table.py $(ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# The stamps make a second run start at once: pip runs again only after setup.cfg has changed.
$(VENV)/installed: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/installed-dev: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(VENV)/installed $@

$(VENV)/installed-bench: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $(VENV)/installed $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "$(PYTHON) is missing or older than Python 3.11; name a newer one: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
