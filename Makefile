# make setup | lint | check | test | bench | accuracy | strain | refinement | sweep | demo      PYTHON=python3.12 names another Python
PYTHON ?= python3
WORKERS ?= 2
SLURM ?= required

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
SOURCES := $(shell find cmnet_core cmnet_cli -type f -not -name '*.pyc' 2>/dev/null)

# One thread a process: tests run side by side, and small grids gain nothing from more.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: help setup lint check test test-cluster test-browser bench accuracy strain sunnybrook refinement sweep demo clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    install into $(VENV) and run the whole main job on a synthetic cohort"
	@echo "make test    install the test tools and run lint, types and tests"
	@echo "make test-cluster  array jobs on a real SLURM, which root must be able to start here"
	@echo "make test-browser  the report's pages in a real Chromium, which must be installed; npm brings axe-core"
	@echo "make check   lint, types and import rules; no tests"
	@echo "make lint    ruff alone"
	@echo "make bench   CPU seconds, wall and peak memory of each stage"
	@echo "make accuracy metrics on subjects with masks beside their targets; needs ../shared/data or DATA=FOLDER, SIMULATED=MANIFEST"
	@echo "make strain  strain of random synthetic hearts through their true motion, against the closed form"
	@echo "make sunnybrook  SegNet against the contours drawn on the Sunnybrook cines; needs ../shared/data or DATA=FOLDER"
	@echo "make refinement what infer --refine costs and gains on real hearts, into docs/validation.md"
	@echo "make sweep   train once for every choice of the method, small; tables and plot into docs/validation.md"
	@echo "make setup   the virtual environment with the test tools"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "cmnet needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo not here)." >&2; \
	  echo "Install a newer one, or name one that is here:  make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }

# A stamp is younger than what it was made from, so an installation is not repeated.
$(VENV)/installed: $(BIN)/python pyproject.toml constraints.txt $(SOURCES)
	@echo "Installing cmnet into $(VENV)"
	@$(PIP) install -c constraints.txt .
	@touch $@

$(VENV)/installed-test: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing cmnet and its test tools into $(VENV)"
	@$(PIP) install -c constraints.txt -e '.[test]'
	@touch $@

setup: $(VENV)/installed-test

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: lint
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --durations 10 --ignore tests/cluster --ignore tests/browser

# One after the other: they share one SLURM, and fill the cores by themselves.
test-cluster: setup
	$(ONE_THREAD) CMNET_SLURM=$(SLURM) $(BIN)/python -m pytest tests/cluster --durations 10

# What judges whether a page can be read without seeing it, or without a mouse.
AXE := $(VENV)/axe/node_modules/axe-core/axe.min.js
$(AXE): $(VENV)/installed-test
	@npm install --silent --no-audit --no-fund --prefix $(VENV)/axe axe-core@4.14.1
	@touch $@

test-browser: setup $(AXE)
	$(ONE_THREAD) CMNET_BROWSER=required $(BIN)/python -m pytest tests/browser --durations 10

bench: setup
	$(BIN)/python benchmarks/bench_stages.py

accuracy: setup
	$(BIN)/python benchmarks/accuracy.py $(if $(DATA),--data $(DATA)) $(if $(SIMULATED),--simulated $(SIMULATED))

strain: setup
	$(BIN)/python benchmarks/strain.py

sunnybrook: setup
	$(BIN)/python benchmarks/sunnybrook.py $(if $(DATA),--data $(DATA))

refinement: setup
	$(ONE_THREAD) $(BIN)/python -m benchmarks.refinement $(if $(DATA),--data $(DATA))

sweep: setup
	$(ONE_THREAD) $(BIN)/python -m benchmarks.sweep $(if $(DATA),--data $(DATA))

demo: $(VENV)/installed
	$(BIN)/cmnet demo cmnet-demo

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
