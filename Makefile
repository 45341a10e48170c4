# `make demo` and `make test` are all one needs; the first of them makes .venv and installs into it.
PYTHON ?= python3
BIN := .venv/bin
FULL ?=
SEEDS ?=
FULL_RUN := $(filter-out 0,$(FULL))
MANY := $(filter-out 1,$(SEEDS))
OUT ?= runs/demo$(if $(FULL_RUN),-full)$(if $(MANY),-$(MANY)-seeds)
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=1200 --nbval-kernel-startup-timeout=120 \
	--nbval-sanitize-with tests/nbval_sanitize.cfg
LESSONS := $(patsubst notebooks/src/%.py,notebooks/%.ipynb,$(wildcard notebooks/src/[0-9]*.py))

.PHONY: help demo test test-all lab lessons notebooks lint venv
help:
	@echo "make demo       the whole method in five minutes; FULL=1 trains longer, SEEDS=3 compares all methods"
	@echo "make test       the tests and the lessons, up to 20 minutes; make test-all adds the slow ones"
	@echo "make lab        the lessons in JupyterLab; make lessons runs them all in full, into runs/lessons"
	@echo "make notebooks  build the lessons from notebooks/src;  make lint  style"

demo: venv
	$(BIN)/icft-lite demo --out $(OUT) $(if $(MANY),--seeds $(MANY)) $(if $(FULL_RUN),--full)

test: venv
	$(BIN)/python -m pytest -m "not slow" $(if $(LESSONS),&& $(BIN)/python -m pytest notebooks $(NBVAL))

test-all: venv
	$(BIN)/python -m pytest $(if $(LESSONS),&& $(BIN)/python -m pytest notebooks $(NBVAL))

lab: venv
	$(BIN)/jupyter lab notebooks

lessons: venv
	ICFT_PROFILE=full $(BIN)/python notebooks/build.py --to runs/lessons

notebooks: venv
	$(BIN)/python notebooks/build.py

lint: venv
	$(BIN)/ruff check .

venv: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "$(PYTHON): missing, or older than 3.11; name a newer one: make $(or $(MAKECMDGOALS),demo) PYTHON=python3.12"; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make environments; on Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt $(shell grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,lab]'
	@touch $@
