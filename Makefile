# Everything here needs only Python 3.11 or newer and a package registry; the rest is installed into .venv.
PYTHON ?= python3
ARGS ?=
UV_VERSION := 0.13.9
BIN := .venv/bin
# More processes than cores: tests wait for processes, timers and locks, too.
PYTEST := $(BIN)/python -m pytest -n 3 --dist worksteal

# What one process of the tests compiled, the next hundred need not compile again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo test coverage check format bench conformance clean

help:
	@echo "make demo     set up, run the whole journey against a local Segment, keep serving (ARGS=\"--once --json\")"
	@echo "make test     set up and run every test"
	@echo "make coverage  the same, and which lines and branches no test reaches"
	@echo "make check    ruff, types and import contracts"
	@echo "make install  set up .venv only"
	@echo "make bench    measure this machine, and this service beside others (ARGS=\"--only SQLite --turns 6\")"
	@echo "make format   rewrite the code in the project's format"
	@echo "make conformance  write docs/conformance.md and docs/security.md anew from the tests"

install: .venv/.installed

.venv/.installed: pyproject.toml uv.lock Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Installing into .venv: the service, its tests, a PostgreSQL server and Segment's Python SDK (first run only)" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
	  { echo "python3 -m venv failed; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/uv && $(BIN)/uv --version | grep -qF ' $(UV_VERSION) ' || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) >&2
	@VIRTUAL_ENV= $(BIN)/uv sync --frozen --inexact --python $(BIN)/python --quiet
	@touch $@

demo: install
	@$(BIN)/enable-with-segment demo $(ARGS)

test: install
	@$(BIN)/python -m tests.announce
	@$(PYTEST) $(ARGS)

coverage: install
	@$(PYTEST) --cov --cov-report=term:skip-covered $(ARGS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install
	@VIRTUAL_ENV= $(BIN)/uv sync --frozen --inexact --group bench --python $(BIN)/python --quiet
	@$(BIN)/python -m benchmarks $(ARGS)

conformance: install
	$(BIN)/python -m tests.pages

clean:
	rm -rf .venv data .coverage htmlcov .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
