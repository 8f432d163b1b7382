# Python 3.11 or later is all that must be there. `make run` and `make test` do the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint types floorplan unit alerts check man bench clean

run: $(VENV)/ready
	$(BIN)/qae demo

test: $(VENV)/ready-dev
	$(BIN)/python -m pytest -n auto --dist loadfile

check: lint types floorplan unit

lint: $(VENV)/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready-dev
	$(BIN)/mypy

floorplan: $(VENV)/ready-dev
	$(BIN)/lint-imports

unit:
	deploy/systemd/check.sh

# Needs promtool, which comes with Prometheus: deploy/prometheus/README.md.
alerts:
	deploy/prometheus/check.sh

man: $(VENV)/ready-dev
	$(BIN)/python -m quantum_ai_engine.cli.manual

bench: $(VENV)/ready-dev
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all,bench,dev,peers]'
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV)

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all,bench,dev]'
	touch $@
