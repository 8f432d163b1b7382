# Python 3.11 or later is all that must be there. `make run` and `make test` do the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test cover e2e lint types floorplan unit alerts check man bench wheel install rollback uninstall clean

run: $(VENV)/ready
	$(BIN)/qae demo

test: $(VENV)/ready-dev
	$(BIN)/python -m pytest -n auto --dist loadfile

# The same, and which lines and branches it reached: a fifth slower.
cover: $(VENV)/ready-dev
	$(BIN)/python -m pytest -n auto --dist loadfile --cov=quantum_ai_engine --cov-branch --cov-report=term:skip-covered

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

# The units under a real systemd: needs root, debootstrap, and minutes. See tests/e2e.
e2e: $(VENV)/ready-dev
	$(BIN)/python -m pytest --durations=0 -ra tests/e2e

wheel: $(VENV)/ready-dev
	$(BIN)/hatchling build --target wheel -d dist

# As root; see deploy/systemd/README.md. EXTRAS=torch,embedded  WHEEL=FILE  OPTIONS=--force  PURGE=1
install:
	deploy/install.sh install $(if $(WHEEL),--wheel $(WHEEL)) $(if $(EXTRAS),--extras $(EXTRAS)) $(OPTIONS)

rollback:
	deploy/install.sh rollback $(OPTIONS)

uninstall:
	deploy/install.sh uninstall $(if $(filter 1,$(PURGE)),--purge)

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
