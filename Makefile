# Two commands: `make demo` and `make test`. Everything they need is installed under .venv/, .tools/ and
# ${XDG_CACHE_HOME:-~/.cache}/imagefleet; nothing has to be installed by hand but Python 3.11 and make.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Without bytecode each process that imports torch compiles it first: some 15 s of CPU time for every worker.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
UV_VERSION := 0.13.9
UV := .tools/bin/uv
VENV := .venv/.synced
PY := .venv/bin/python
PYTEST := $(PY) -m pytest
# A suite of tests, $(call SUITE,name,paths): a line for each test that ended, whole though others print too. What
# failed is kept for each suite alone.
SUITE = rm -f $(PASSED)/$(1) \
  && PYTHONUNBUFFERED=1 $(PYTEST) --verbose -o cache_dir=.pytest_cache/$(1) $(AGAIN) $(2) | sed -u 's/^/$(1): /' \
  && mkdir -p $(PASSED) && touch $(PASSED)/$(1)
# The longest first.
SUITES := e2e-fleet integration-parts e2e-rollouts e2e-capacity integration-engine
PASSED := build/tests-passed
# Whoever collects tests imports what they import: those that need torch have a process of their own, beside the others.
UNIT_TORCH := tests/unit/worker/engine tests/unit/shapes
UNIT_OPERATOR := tests/unit/operator tests/unit/simulate
UNIT_GATEWAY := tests/unit/gateway
NAME ?= control_plane

include make/*.mk

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-24s %s\n", $$1, $$2}' $(MAKEFILE_LIST) | sort

$(UV):
	@echo "setting up uv $(UV_VERSION) in .tools" >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv .tools && .tools/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# The first run downloads PyPI's torch (several GB); later ones come from uv's cache in seconds.
$(VENV): pyproject.toml uv.lock | $(UV)
	@echo "syncing .venv from uv.lock (the first time this downloads torch, several GB)" >&2
	@$(UV) sync --frozen --all-extras --compile-bytecode --python $(PYTHON) >&2
	@touch $@

.PHONY: setup
setup: $(VENV) ## Install all dependencies into .venv

.PHONY: demo
demo: ## Set everything up and draw one picture; stays up until Ctrl-C (DEMO_ONCE=1: ends)
	@started=$$(date +%s); $(MAKE) setup demo-model cluster-build; \
	  DEMO_SETUP_SECONDS=$$(( $$(date +%s) - started )) exec $(PY) -m scripts.demo

.PHONY: test test-again test-unit test-integration test-e2e $(SUITES:%=test-%)
# Tests of clusters and workers wait for as long as they compute: three processes, each with a cluster of its own.
test: test-unit demo-model cluster-build ## Set everything up and run all tests
	@$(MAKE) --jobs 3 --keep-going $(SUITES:%=test-%) || $(MAKE) test-again

test-again: ## Run what failed of the suites of the last `make test`, one suite after the other
	@for suite in $(SUITES); do test -e $(PASSED)/$$suite || $(MAKE) test-$$suite AGAIN=--last-failed; done
	@echo "what failed beside other suites passed alone: see above for what it was, it needs mending all the same" >&2

.PHONY: unit-torch unit-operator unit-gateway unit-others
test-unit: $(VENV) ## The tests that need no cluster, in about a minute
	@$(MAKE) --jobs 4 --keep-going --output-sync=target unit-torch unit-operator unit-gateway unit-others

unit-torch: $(VENV)
	@$(PYTEST) $(UNIT_TORCH)

unit-operator: $(VENV)
	@$(PYTEST) $(UNIT_OPERATOR)

unit-gateway: $(VENV)
	@$(PYTEST) $(UNIT_GATEWAY)

unit-others: $(VENV)
	@$(PYTEST) tests/unit $(addprefix --ignore=,$(UNIT_TORCH) $(UNIT_OPERATOR) $(UNIT_GATEWAY))

test-integration: ## The tests of each part against the real API server
	@$(MAKE) --jobs 2 --keep-going test-integration-parts test-integration-engine

test-integration-parts: $(VENV) demo-model cluster-build ## The API, operator, gateway, worker and chart, each as a process
	@$(call SUITE,integration-parts,tests/integration --ignore=tests/integration/engine)

# It needs no cluster; but without cluster-build it would begin before the longer suites can.
test-integration-engine: $(VENV) demo-model cluster-build ## Pipelines of each family, in an engine
	@$(call SUITE,integration-engine,tests/integration/engine)

test-e2e: ## Whole journeys on the whole fleet
	@$(MAKE) --jobs 2 --keep-going test-e2e-fleet test-e2e-rollouts test-e2e-capacity

test-e2e-fleet: $(VENV) demo-model cluster-build ## Installation, models, quickstart, crashes, permissions
	@$(call SUITE,e2e-fleet,tests/e2e --ignore=tests/e2e/rollouts --ignore=tests/e2e/capacity)

test-e2e-rollouts: $(VENV) demo-model cluster-build ## Canaries, aborts, the kill switch
	@$(call SUITE,e2e-rollouts,tests/e2e/rollouts)

test-e2e-capacity: $(VENV) demo-model cluster-build ## Autoscaling, warm pools, spot, budgets
	@$(call SUITE,e2e-capacity,tests/e2e/capacity)

.PHONY: lint format
lint: $(VENV) chart-lint image-lint check-generated ## Check format, style, types, import layers, chart and images
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@.venv/bin/yamllint --strict .

format: $(VENV) ## Format the code and mend what can be mended
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

.PHONY: bench
bench: ## Run one benchmark, NAME=control_plane|gateway|engine|...; JSON lines on standard output
	@$(MAKE) setup demo-model cluster-build >&2
	@$(PY) -m bench.$(NAME)

.PHONY: clean
clean: cluster-down ## End the local cluster and remove what was built here
	@rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
