# Start with `make demo` or `make test`: whichever comes first creates .venv and installs into it.
PYTHON ?= python3
BIN := .venv/bin
FULL ?=
SEEDS ?=
FULL_RUN := $(filter-out 0,$(FULL))
MANY := $(filter-out 1,$(SEEDS))
OUT ?= runs/demo$(if $(FULL_RUN),-full)$(if $(MANY),-$(MANY)-seeds)
# Test files, or lessons, that run at a time, each with a part of the cores. They start in order: lesson 00 takes longest.
JOBS ?= 2
SHARE = OMP_NUM_THREADS=$$($(BIN)/python -c "import os; print(max(1, os.cpu_count() // $(JOBS)))")
PYTEST = $(SHARE) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=1200 --nbval-kernel-startup-timeout=120 \
	--nbval-sanitize-with tests/nbval_sanitize.cfg
# nbval reads a cell's messages when the cell has finished. A progress bar that moves ten times a second fills the
# kernel's queue of about 2,000 messages in a few minutes, further messages are lost, and nbval reports a timeout.
SLOW_BARS := TQDM_MININTERVAL=5

.PHONY: help demo demo-llm sweep-llm test test-all test-colab lab lessons notebooks release docs lint venv
help:
	@echo "make demo       the whole method in five minutes; FULL=1 trains longer, SEEDS=3 compares all methods"
	@echo "make demo-llm   the same on a real chat model, in half an hour on two cores; QUICK=1: a short illustration;"
	@echo "                FULL=1 SEEDS=3: all methods, three seeds"
	@echo "make test       the tests and the lessons, up to 20 minutes; make test-all adds the slow ones; JOBS=1 one by one"
	@echo "make test-colab lessons 00 and 04 with the package versions of Google Colab, in .venv-colab; half an hour"
	@echo "make lab        the lessons in JupyterLab; make lessons runs them all in full, into runs/lessons"
	@echo "make notebooks  build the lessons from notebooks/src"
	@echo "make release    build the assignments for students, instructors and autograders into dist/course;"
	@echo "                SEED=TEXT: with other constants than the public ones; PRIVATE=DIR: with your own specifications"
	@echo "make docs       build the documentation site into dist/site, and check its links and images"
	@echo "make lint       style, formatting, types, import contracts, vocabulary"

demo: venv
	$(BIN)/icft-lite demo --out $(OUT) $(if $(MANY),--seeds $(MANY)) $(if $(FULL_RUN),--full)

LLM_KIND := $(if $(filter-out 0,$(QUICK)),-quick)$(if $(FULL_RUN),-full)
demo-llm: venv
	$(BIN)/icft-lite demo --model smollm2 $(patsubst -%,--%,$(LLM_KIND)) $(if $(MANY),--seeds $(MANY)) --out runs/demo-smollm2$(LLM_KIND)

# A sweep around the default settings of chat models (docs/models.md).
sweep-llm: venv
	$(BIN)/python -m icft_lite.experiments.sweep --out runs/sweep-smollm2 --jobs $(JOBS)

test: venv
	$(PYTEST) -m "not slow"
	$(SLOW_BARS) $(PYTEST) notebooks $(NBVAL)

test-all: venv
	$(PYTEST)
	$(SLOW_BARS) $(PYTEST) notebooks $(NBVAL)

# The set-up cell changes no package of Colab, and lessons run with them (tests/colab_packages.toml).
test-colab: venv .venv-colab/.installed
	$(SHARE) $(BIN)/python scripts/colab.py check .venv-colab

.venv-colab/.installed: tests/colab_packages.toml constraints.txt | venv
	$(BIN)/python scripts/colab.py create .venv-colab
	@touch $@

lab: venv
	$(BIN)/jupyter lab notebooks

lessons: venv
	$(SHARE) ICFT_PROFILE=full $(BIN)/python notebooks/build.py --jobs $(JOBS) --to runs/lessons

notebooks: venv
	$(BIN)/python notebooks/build.py

release: venv
	$(SHARE) $(BIN)/python scripts/release.py $(if $(PRIVATE),--private '$(PRIVATE)') $(if $(SEED),--seed '$(SEED)')

# Offline: nothing is executed or fetched. Two processes at most, because each holds the package and torch.
docs: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -c docs -b html -d dist/doctrees -j 2 -q --fail-on-warning . dist/site
	$(BIN)/python scripts/check_site.py dist/site

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/check_vocabulary.py

venv: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "$(PYTHON) is missing or older than 3.11; name a newer one: make $(or $(MAKECMDGOALS),demo) PYTHON=python3.12"; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot create virtual environments; on Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt $(shell grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,lab,lint,docs]'
	@touch $@
