# Everything runs in its own virtual environment; the first target that needs it makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup fix check fast test bench demo clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

fix: setup  ## format and mend what can be mended
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

check: setup  ## formatting, lint, types, import directions
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

fast: setup  ## the fast tests
	$(BIN)/pytest -m "not slow"

test: setup  ## all tests
	$(BIN)/pytest

bench: setup  ## speed and memory, as ratios measured side by side
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt opacus
	$(BIN)/python benchmarks/speed.py

demo: setup  ## the whole method on one of twenty small tasks, offline
	$(BIN)/pituning demo

clean:
	rm -rf $(VENV)
