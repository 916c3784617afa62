# learnware-serving: everything runs in one virtual environment, made once (see requirements/environment.py).

VENV ?= .venv
CONFIG ?= deploy/cpu.yaml
SERVE_ARGS ?=
PYTEST_ARGS ?=
# What `make test-all` reports, of the code that runs in pytest's own process alone (COVERAGE= for no report).
COVERAGE ?= --cov=specs --cov=router --cov=serving --cov-report=term:skip-covered
BENCH_OUT ?= bench-results
# Which lists `make lock` writes (cpu gpu sbom pip); all if none is named.
LISTS ?=
LEARNWARE_DATA ?= $(wildcard ../shared/data/tasks)

BIN := $(VENV)/bin
STAMP := $(VENV)/.learnware-complete
PYTEST = $(BIN)/python -m pytest
# The first of these that is Python 3.11 with what it takes to make virtual environments.
PYTHON ?= $(firstword $(foreach p,python3.11 python3 python,$(shell \
	command -v $(p) >/dev/null 2>&1 && $(p) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' \
	>/dev/null 2>&1 && echo $(p))))
# Where there is none, requirements/python.py fetches one into $(VENV)-python. That program runs on any of these.
ANY_PYTHON = $(firstword $(foreach p,python3 python $(addprefix python3.,14 13 12 11 10 9 8),$(shell \
	command -v $(p) >/dev/null 2>&1 && $(p) -c 'import sys; sys.exit(sys.version_info < (3, 8))' \
	>/dev/null 2>&1 && echo $(p))))
FETCHED = $(or $(ANY_PYTHON),$(error Python 3.11 with venv and ensurepip is needed, as python3.11 or python3 on PATH \
	(Debian 12: apt install python3.11-venv; with uv: uv python install 3.11, and ~/.local/bin on PATH), \
	or as PYTHON=program)) \
	requirements/python.py $(VENV)-python

# $(call say,step,what): what is being done, with the seconds since make began, as requirements/steps.py says it.
STARTED := $(shell date +%s)
say = printf '[%s %4d s] %s\n' $(1) $$(($$(date +%s) - $(STARTED))) "$(2)"

# What needs no engine runs in two processes, what shares one engine or one stack after it in one. With PYTEST_ARGS
# everything runs in one: they may name one test.
TWO := -n 2 --dist worksteal
ALONE := not e2e and not engine
SHARED := (e2e or engine)

.DEFAULT_GOAL := help
.PHONY: help environment serve test test-all quick lint format pytest bench console hooks lock sbom clean

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

environment: $(STAMP) ## the virtual environment with every package, pinned

$(STAMP): requirements/cpu.txt requirements/environment.py requirements/locked.py requirements/steps.py pyproject.toml
	@MAKE_STARTED=$(STARTED) $(or $(PYTHON),$(FETCHED)) requirements/environment.py $(VENV)

serve: $(STAMP) ## start the stack (CONFIG=file, SERVE_ARGS="--port 9000"); Ctrl-C ends it
	@exec $(BIN)/learnware-serving serve --config $(CONFIG) $(SERVE_ARGS)

test: lint pytest ## lint, types, import rules, and all tests but those that `make test-all` adds

test-all: lint ## the same, and the tests with browsers, clusters, injected faults and other servers' tools; coverage
	@$(call say,test,pytest with everything (the tests of the running stack start it once: about a minute))
	@export COVERAGE_FILE=$(abspath $(VENV))/coverage; $(if $(PYTEST_ARGS),$(PYTEST) $(COVERAGE) $(PYTEST_ARGS),\
	$(PYTEST) $(TWO) -m "$(ALONE)" $(COVERAGE) && $(PYTEST) -m "$(SHARED)" $(if $(COVERAGE),$(COVERAGE) --cov-append))

quick: $(STAMP) ## the tests that need no stack, no engine and little time, without lint
	@$(call say,test,pytest without stack or engine and without slow tests)
	@$(PYTEST) $(TWO) -m "$(ALONE) and not slow and not vllm and not extra" $(PYTEST_ARGS)

lint: $(STAMP) ## ruff, mypy, import-linter
	@$(call say,lint,ruff) && $(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(call say,lint,mypy) && $(BIN)/mypy
	@$(call say,lint,import rules) && $(BIN)/lint-imports --no-logo

pytest: $(STAMP) # the tests alone (PYTEST_ARGS="tests/specs -k rkme")
	@$(call say,test,pytest (the tests of the running stack start it once: about a minute))
	@$(if $(PYTEST_ARGS),$(PYTEST) -m "not extra" $(PYTEST_ARGS),\
	$(PYTEST) $(TWO) -m "$(ALONE) and not extra" && $(PYTEST) -m "$(SHARED) and not extra")

format: $(STAMP) ## put the code into the form that lint asks for
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: $(STAMP) ## the three benchmarks in short form (at most 20 minutes)
	@mkdir -p $(BENCH_OUT)
	@$(call say,bench,router's own time) && $(BIN)/python -m benchmarks.routing --short --json $(BENCH_OUT)/routing.json
	@if [ -n "$(LEARNWARE_DATA)" ]; then $(call say,bench,selection) && \
		$(BIN)/python -m benchmarks.selection --short --data $(LEARNWARE_DATA) --json $(BENCH_OUT)/selection.json; \
	else $(call say,bench,selection is left out: it needs the task data (LEARNWARE_DATA=folder)); fi
	@$(call say,bench,overhead beside the stock server) && $(BIN)/python -m benchmarks.overhead --short --json $(BENCH_OUT)/overhead.json

console: ## build the pages of the console anew (needs Node 20 with npm)
	@$(call say,console,the packages as pinned and the build) && cd console && npm ci --ignore-scripts --no-audit --no-fund && \
	npm run --silent check && npm run --silent build

# A hook of somebody else is left alone, and so is a folder of hooks that serves other repositories too.
HOOK_LINE := \# Written by `make hooks` of learnware-serving.
hooks: ## git runs `make lint` before each commit
	@hook=$$(git rev-parse --git-path hooks/pre-commit) || exit; \
	if git config core.hooksPath >/dev/null; then \
		echo "[hooks] core.hooksPath is set, so nothing is written: let its pre-commit run 'make lint'" >&2; exit 1; \
	elif { [ -e "$$hook" ] || [ -L "$$hook" ]; } && ! grep -qxF '$(HOOK_LINE)' "$$hook"; then \
		echo "[hooks] $$hook is not of this project and is left alone: let it run 'make lint'" >&2; exit 1; \
	fi; \
	mkdir -p "$${hook%/*}" && printf '%s\n' '#!/bin/sh' '$(HOOK_LINE)' 'exec make lint' >"$$hook" && \
	chmod +x "$$hook" && \
	echo "[hooks] 'make lint' runs before each commit ($$hook); git commit --no-verify passes it over"

lock: $(STAMP) ## resolve the pinned lists anew, keeping versions that still fit (UPGRADE=1: the newest; LISTS="cpu gpu")
	@MAKE_STARTED=$(STARTED) $(BIN)/python requirements/lock.py $(if $(UPGRADE),--upgrade) $(LISTS)

sbom: $(STAMP) ## bills of materials (CycloneDX) of the CPU environment and the GPU image, in dist/
	@MAKE_STARTED=$(STARTED) $(BIN)/python requirements/sbom.py $(VENV) dist

clean: ## remove the environment, caches and results of benchmarks
	rm -rf $(VENV) console/node_modules build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis $(BENCH_OUT)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
