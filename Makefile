# Every target sets up what it needs: a virtual environment, made once and again when pyproject.toml or
# requirements.lock change. `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
# The tried versions; `make test CONSTRAINTS=` takes the newest that pyproject.toml allows.
CONSTRAINTS ?= -c requirements.lock
LABFLAGS ?=
PYTESTFLAGS ?=

BIN := $(VENV)/bin
KEY := $(shell cat pyproject.toml requirements.lock tools/jupyterlab.json | cksum | cut -d ' ' -f 1)$(if $(CONSTRAINTS),,-newest)
READY := $(VENV)/.ready-$(KEY)
PEERS := $(VENV)/.peers-$(KEY)
SITE := $(VENV)/.site-$(KEY)
COURSE := $(VENV)/.course-$(KEY)
NOTEBOOKS = $(wildcard chapters/*/*.ipynb)

# Two processes side by side with two OpenMP threads each are seventy times slower than with one.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0
# The environment's own kernel, not one of the same name in the user's home.
export JUPYTER_PREFER_ENV_PATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup peers course lab test test-answers seeds mutants test-unit test-chapters check format sync book test-site pdf slides bench race doctor clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
	@echo "Variables: PYTHON=$(PYTHON)  VENV=$(VENV)  JOBS=$(JOBS)  LABFLAGS=  PYTESTFLAGS=  CONSTRAINTS=$(CONSTRAINTS)"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "gmbook needs Python 3.11 or newer as $(PYTHON): name another one, make ... PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "Python's venv module is missing: on Debian and Ubuntu install the package python3-venv" >&2; exit 1; }

$(READY): $(VENV)/bin/python
	@echo "Setting up $(VENV) (once, a few minutes) ..."
	@$(BIN)/python -m pip install --quiet $(CONSTRAINTS) -e '.[dev,book,features]'
	@rm -f $(VENV)/.ready-* && touch $@

$(PEERS): $(READY)
	@$(BIN)/python -m pip install --quiet $(CONSTRAINTS) -e '.[peers]'
	@$(BIN)/python -m pip install --quiet --no-deps $(CONSTRAINTS) torchcfm
	@rm -f $(VENV)/.peers-* && touch $@

$(SITE): $(READY)
	@$(BIN)/python -m pip install --quiet $(CONSTRAINTS) -e '.[site]'
	@rm -f $(VENV)/.site-* && touch $@

$(COURSE): $(READY)
	@$(BIN)/python -m pip install --quiet $(CONSTRAINTS) -e '.[course]'
	@rm -f $(VENV)/.course-* && touch $@

setup: $(READY)  ## make the virtual environment

peers: $(PEERS)  ## install the libraries that tests and benchmarks compare with

course: $(COURSE)  ## install nbgrader, with which the exercise sheets work too

lab: $(READY)  ## open JupyterLab in chapters/ (without a browser: LABFLAGS=--no-browser)
	@cd chapters && env -u OMP_NUM_THREADS "$(abspath $(BIN))/jupyter" lab $(LABFLAGS)

test: $(READY)  ## all tests, and every notebook as a reader runs it
	@start=$$(date +%s); status=0; \
	$(MAKE) --no-print-directory test-unit || status=1; \
	$(MAKE) --no-print-directory test-chapters || status=1; \
	echo "make test: $$(( $$(date +%s) - start )) s in all"; exit $$status

test-unit: $(READY)
	@$(BIN)/python -m pytest tests -q -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations=5 $(PYTESTFLAGS)

# A notebook shares one kernel, so it must not be split over processes: --dist loadfile. A dead kernel would hang
# the run: --nbval-cell-timeout. Check cells are compared with their recorded output, all others must not raise.
test-chapters: $(READY)
ifneq ($(NOTEBOOKS),)
	@$(BIN)/python -m pytest chapters -q -n $(JOBS) --dist loadfile -p tools.chapter_seconds \
	  --nbval-lax --nbval-cell-timeout=600 $(PYTESTFLAGS)
else
	@echo "no chapter yet: nothing to run in chapters/"
endif

check: $(READY)  ## the quick loop: format, lint, types, unit tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(MAKE) --no-print-directory test-unit

format: $(READY)  ## format and fix what ruff can fix
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

sync: $(READY)  ## write every chapter's .ipynb anew from its text, and the README's tables and badge
	@$(BIN)/python -m tools.chapters sync
	@$(BIN)/python -m tools.readme

book: $(READY)  ## build the website into book/_build/html
	@$(BIN)/python -m book.build

test-answers: $(READY)  ## every kept answer to an exercise, right and wrong, a hundred times on fresh inputs (most of an hour)
	@GMBOOK_REPEATS=100 $(BIN)/python -m pytest tests/course/test_sheets.py -q -n $(JOBS) -k test_kept_answer $(PYTESTFLAGS)

seeds: $(READY)  ## every chapter under sixteen other seeds (hours of two cores; SEEDFLAGS="--shifts 1-4 FILE")
	@$(BIN)/python -m tools.seeds $(SEEDFLAGS)

mutants: $(READY)  ## break core and the chapters' papers in 100 places; each must be noticed (MUTANTFLAGS="--count 20")
	@$(BIN)/python -m tools.mutants $(MUTANTFLAGS)

test-site: $(SITE)  ## look at the built website in Chromium, with the network cut off
	@GMBOOK_REQUIRE_SITE=1 $(BIN)/python -m pytest tests/site -q -n $(JOBS) --dist loadfile --durations=5 $(PYTESTFLAGS)

pdf: $(SITE)  ## the built website as PDF: the book, and each chapter (book/_build/editions; Chromium prints)
	@$(BIN)/python -m book.editions pdf

slides: $(SITE)  ## slides of the chapters, from their own figures and displays (CHAPTERS="06 12" for some)
	@$(BIN)/python -m book.editions slides $(CHAPTERS)

bench: $(PEERS)  ## time the library, beside other libraries where there are any
	@$(BIN)/python -m pytest benchmarks -q --benchmark-only --benchmark-columns=median,iqr,rounds $(PYTESTFLAGS)

race: $(PEERS)  ## the library and its peers, taking turns
	@$(BIN)/python -m benchmarks.race

doctor: $(READY)  ## say what is installed and which data sets are found
	@$(BIN)/python -m gmbook.doctor

clean:  ## remove what the other targets made (data/cache stays)
	rm -rf $(VENV) build dist book/_build .pytest_cache .mypy_cache .ruff_cache .benchmarks
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -prune -exec rm -rf {} +
