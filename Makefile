# Everything needs only make and Python 3.11 or later: the environment in .venv is made on the way.
#   make demo     three queue orders on one workload: table, run folders, plots
#   make test     lint, types and all tests
#   make bench    speed and memory of the simulator

ifndef PYTHON
NEWER := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c '$(NEWER)' 2>/dev/null && echo $$python && break; done)
endif

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install
JOBS ?= 2

.PHONY: demo test lint unit bench gpu clean

demo: $(VENV)/.base
	$(BIN)/twin ab --workload mooncake-conversation --limit 4000 --rate 1.5 --seed 0 \
		--order fcfs --order lpm --order dfs-weight --out runs/demo --overwrite

test: lint unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) $(PYTEST_ARGS)

bench: $(VENV)/.base
	$(BIN)/python -m benchmarks.simulator

gpu:
	@echo "The torch runtime is not built yet, so there is nothing to run on a GPU."
	@echo "With it, this will run the tests marked gpu: pytest -m gpu"

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or later was found. Install one, or name it:" \
		"make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		f"{sys.executable} is Python {sys.version.split()[0]}; 3.11 or later is needed")'
	@"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual" \
		"environment; on Debian and Ubuntu the package python3-venv is missing" >&2; exit 1; }

$(VENV)/.base: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) ..."
	@$(PIP) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV), with what tests need ..."
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.base
