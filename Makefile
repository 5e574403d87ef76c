# `make demo` shows the system at work, `make test` runs the tests; both install into .venv first, once.

PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(if $(shell \
	command -v $(name) >/dev/null 2>&1 && $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	>/dev/null 2>&1 && echo ok),$(name))))
BIN := .venv/bin
STAMP := .venv/installed.stamp
CHECKED := .venv/checked.stamp
DOCS := .venv/docs.stamp
WORKERS ?= 2
TESTS ?=
SERVE ?=

DEMO_OUT ?= demo

.PHONY: demo serve test check page browser docs format lint types venv clean
.DEFAULT_GOAL := demo

demo: $(STAMP)
	$(BIN)/unipixel demo -o $(DEMO_OUT)

# The web page and the HTTP API on this machine; other options through SERVE, such as make serve SERVE='--port 9000 --state sessions'.
serve: $(STAMP)
	$(BIN)/unipixel serve $(SERVE)

# Side by side in as many processes, which take turns at files; WORKERS=0 is one after the other.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(TESTS)

# What continuous integration runs: format, lint, types, tests, with the packages that any of them needs.
check: $(CHECKED) lint types test

# The tests of the web page in a browser, side by side as well.
page: $(CHECKED) browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m slow tests/serve/page

# Debian's Chromium for the tests of the web page, which are skipped without it. Only root can install it.
browser:
	@command -v chromium >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 \
		|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null 2>&1 \
			&& apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; } \
		|| echo "No Chromium: the tests of the web page are skipped; install the package chromium to run them."

# The documentation site, in site/; with pictures, scripts and fonts of its own, so that it can be read offline. A warning ends it.
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

venv: $(STAMP)

# The stamp makes later calls instant; it grows old when the requirements change.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 found; install one or name it: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

$(CHECKED): $(STAMP)
	$(BIN)/python -m pip install -c constraints.txt -e '.[check]'
	@touch $@

$(DOCS): $(STAMP)
	$(BIN)/python -m pip install -c constraints.txt -e '.[docs]'
	@touch $@

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache $(DEMO_OUT)
	find unipixel tests tools examples -name __pycache__ -type d -prune -exec rm -rf {} +
