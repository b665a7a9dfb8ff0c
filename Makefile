# Everything runs in its own virtual environment; the first target that needs it makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS := $(VENV)/.runs
STAMP := $(VENV)/.installed

.PHONY: setup fix check fast test bench demo clean

setup: $(STAMP)

PIP = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

$(RUNS): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e .
	touch $@

$(STAMP): $(RUNS)
	$(PIP) -e ".[dev]"
	touch $@

fix: setup  ## format and mend what can be mended
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

check: setup  ## formatting, lint, types, import directions
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

# One thread a process, and a process a core: two threads of torch on two busy cores wait more than they work.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

fast: setup  ## the fast tests
	$(PYTEST) -m "not slow"

test: setup  ## all tests
	$(PYTEST)

bench: setup  ## speed and memory, as ratios measured side by side
	$(PIP) opacus
	$(BIN)/python benchmarks/speed.py

demo: $(RUNS)  ## the whole method on one of twenty small tasks, offline
	$(BIN)/pituning demo

clean:
	rm -rf $(VENV)
