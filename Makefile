# `make demo`: train, sample and evaluate on real data. `make test`: everything that CI checks.
PYTHON ?= python3
BIN := .venv/bin
export UNNOISE_DATA ?= $(wildcard ../shared/data)

.PHONY: demo test test-browser lint format clean

demo: .venv/demo
	rm -rf runs/demo
	$(BIN)/unnoise train digits --out runs/demo
	$(BIN)/unnoise sample runs/demo -n 100 --cond label=all --out runs/demo/digits.png
	$(BIN)/unnoise evaluate runs/demo
	@echo
	@echo "Look at:"
	@echo "  runs/demo/digits.png          100 samples, a column a digit"
	@echo "  runs/demo/samples/            the same seeds as training went on"
	@echo "  runs/demo/metrics.jsonl       losses, also by noise level"
	@echo "  runs/demo/evaluation.json     the table above, with how it was measured"
	@echo "  runs/demo/report.html         all of it to look at, samples beside their nearest training digits"

test: .venv/dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

# Reports in a real browser: apt install chromium chromium-driver.
test-browser: .venv/dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[browser]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/browser -rs

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "unnoise needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo]'
	@touch $@

.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ .venv/demo

clean:
	rm -rf .venv dist build runs
