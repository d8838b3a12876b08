# make setup | lint | check | test | docs | package | bench | accuracy | strain | calibration | weights | demo      PYTHON=python3.12 selects another Python
PYTHON ?= python3
WORKERS ?= 2
SLURM ?= required

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# Python compiles what is imported; to compile all modules of all packages beforehand takes longer than the demo itself.
INSTALL := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pip --quiet --disable-pip-version-check install --no-compile
SOURCES := $(shell find cmnet_core cmnet_cli -type f -not -name '*.pyc' 2>/dev/null)

# One thread per process: tests run in parallel, and small grids gain nothing from more threads. Bytecode is written even
# where the environment forbids it, or each of the many processes would compile the sources again.
TESTING := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=

.PHONY: help setup coverage mutation baselines baseline-weights paper-weights lint check test test-cluster test-browser bench accuracy strain sunnybrook calibration weights demo docs package clean
.DEFAULT_GOAL := help

help:
	@echo "make demo          install into $(VENV) and run the whole analysis on a synthetic cohort"
	@echo "make test          install the test tools, run lint, type checks and tests"
	@echo "make test-cluster  tests of array jobs on a real SLURM, which root must be able to start here"
	@echo "make test-browser  tests of the report in a real Chromium, which must be installed; npm installs axe-core"
	@echo "make check         lint, type checks and import rules, without tests"
	@echo "make lint          ruff only"
	@echo "make docs          the documentation as a site in site/; a warning is an error"
	@echo "make package       wheel and source distribution in dist/, and a smoke test of the wheel in an environment of its own"
	@echo "make bench         CPU time, memory and operations of each stage, beside demons; CINE=FILE adds a subject"
	@echo "make accuracy      accuracy on ACDC, with floor and goal; needs ../shared/data or DATA=FOLDER, SIMULATED=MANIFEST"
	@echo "make strain        strain of random phantoms through their ground-truth motion, against the closed form"
	@echo "make sunnybrook    SegNet against the contours of the Sunnybrook cines; needs ../shared/data or DATA=FOLDER"
	@echo "make calibration   calibrate the intervals of the shipped weights in calibration-run, or continue; needs ../shared/data"
	@echo "make weights       train the shipped weights from nothing into weights-run, or continue; needs ../shared/data or DATA=FOLDER"
	@echo "make coverage      tests, and the lines that none of them reaches"
	@echo "make mutation      mutation testing of displacement, strain, losses and calibration; MUTANTS='NAME ...' tries some"
	@echo "make setup         the virtual environment with the test tools"
	@echo "make baseline-weights  train the learned methods that cmnet is compared with into baselines-run, or continue"
	@echo "make paper-weights  train CardioMorphNet as published (--model paper) into paper-run, or continue"
	@echo "make baselines     a virtual environment of its own with the packages of all methods that cmnet is compared with"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "cmnet needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo not found)." >&2; \
	  echo "Install a newer one, or name an installed one:  make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }

# A stamp is newer than its sources, so that an installation is not repeated.
$(VENV)/installed: $(BIN)/python pyproject.toml constraints.txt $(SOURCES)
	@echo "Installing cmnet into $(VENV)"
	@$(INSTALL) -c constraints.txt '.[jpeg]'
	@touch $@

$(VENV)/installed-test: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing cmnet and its test tools into $(VENV)"
	@$(INSTALL) -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(VENV)/installed-test

# An environment of its own: ANTsPy needs older versions of NumPy and SciPy than constraints.txt.
BASELINES := .venv-baselines
$(BASELINES)/installed: $(BIN)/python pyproject.toml constraints.txt constraints-baselines.txt
	@echo "Installing cmnet and all methods that it is compared with into $(BASELINES)"
	@$(BIN)/python -m venv $(BASELINES)
	@grep -vE '^(numpy|scipy)' constraints.txt > $(BASELINES)/constraints.txt
	@$(BASELINES)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -c $(BASELINES)/constraints.txt -c constraints-baselines.txt -e '.[baselines,dev]'
	@touch $@

baselines: $(BASELINES)/installed

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: lint
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(TESTING) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations 10 --ignore tests/cluster --ignore tests/browser

# Sequentially: the tests share one SLURM, and use all cores by themselves.
test-cluster: setup
	$(TESTING) CMNET_SLURM=$(SLURM) $(BIN)/python -m pytest tests/cluster --durations 10

# axe-core checks whether a page is accessible with a screen reader and a keyboard.
AXE := $(VENV)/axe/node_modules/axe-core/axe.min.js
$(AXE): $(VENV)/installed-test
	@npm install --silent --no-audit --no-fund --prefix $(VENV)/axe axe-core@4.14.1
	@touch $@

test-browser: setup $(AXE)
	$(TESTING) CMNET_BROWSER=required $(BIN)/python -m pytest tests/browser --durations 10

docs: setup
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

package: setup
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist . > /dev/null
	@tests/package/smoke_test.sh dist/*.whl $(BIN)/python
	@ls -s --block-size=kB dist

# Neither pytest-cov nor mutmut is among the test tools, since the tests need neither. One test measures CPU time, and its
# code takes several times as long while coverage is recorded.
coverage: setup
	@$(PIP) install pytest-cov
	$(TESTING) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --ignore tests/cluster --ignore tests/browser \
	  --deselect tests/core/io/test_dicom_packing.py::test_header_without_end_is_not_waited_for \
	  --cov cmnet_core --cov cmnet_cli --cov-report term-missing:skip-covered

mutation: setup
	@test -d $(VENV)-mutation || { $(BIN)/python -m venv $(VENV)-mutation && \
	  $(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > $$(echo $(VENV)-mutation/lib/python*/site-packages)/cmnet.pth; }
	@$(VENV)-mutation/bin/python -m pip install --quiet 'mutmut>=3.8'
	$(TESTING) $(VENV)-mutation/bin/python -m mutmut run --max-children $(WORKERS) $(MUTANTS)

bench: setup
	$(TESTING) $(BIN)/python -m benchmarks.speed --json bench.json $(if $(CINE),--cine $(CINE))

accuracy: setup
	$(BIN)/python benchmarks/accuracy.py $(if $(DATA),--data $(DATA)) $(if $(SIMULATED),--simulated $(SIMULATED))

strain: setup
	$(BIN)/python benchmarks/strain.py

sunnybrook: setup
	$(BIN)/python benchmarks/sunnybrook.py $(if $(DATA),--data $(DATA))

calibration: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.coverage --work calibration-run

weights: setup
	$(BIN)/python -m cmnet_cli.commands.training.recipe --data $(or $(DATA),../shared/data) --out weights-run
	$(BIN)/python benchmarks/accuracy.py --model weights-run/default.safetensors --data $(or $(DATA),../shared/data)

baseline-weights: setup
	$(ONE_THREAD) $(BIN)/python -m cmnet_cli.commands.training.baseline_recipe --data $(or $(DATA),../shared/data) --out baselines-run

paper-weights: setup
	$(BIN)/python -m cmnet_cli.commands.training.recipe --data $(or $(DATA),../shared/data) --out paper-run \
	  --recipe cmnet_core/weights/recipe-paper

demo: $(VENV)/installed
	PYTHONDONTWRITEBYTECODE= $(BIN)/cmnet demo cmnet-demo

clean:
	rm -rf $(VENV) $(VENV)-mutation $(BASELINES) mutants build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache \
	  .hypothesis
