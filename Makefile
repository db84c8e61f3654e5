.DEFAULT_GOAL := help
.PHONY: help venv demo run test chaos coverage mutation lint format bench lock clean
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Half of a test is waiting. Servers of your own are one for all, so that there the tests take turns.
PROCESSES = $(if $(COLLECTKIT_TEST_DATABASE_URL)$(COLLECTKIT_TEST_BROKER_URL),0,2)
# What collectkit is measured against, in an environment of its own.
RIVALS := .venv-rivals
RIVALS_LOCK := tests/bench/rivals/requirements
MUTATION := $(VENV)/.mutation
CHAOS = CHAOS=1 SEED=$(SEED) SEEDS=$(SEEDS) KILLS=$(KILLS) ONLY='$(ONLY)' $(BIN)/python -m pytest \
	-p no:cacheprovider --timeout=0 -o faulthandler_timeout=0 --durations=12 --hypothesis-seed=$(or $(SEED),1)
CHAOS_ALL := tests/chaos tests/acceptance/test_first_load.py
# These have many processes of their own, and what must happen in them within a time: each is played by itself.
CHAOS_ALONE := $(addprefix tests/chaos/test_,comparison.py soak.py planted_bugs.py crashes.py)
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command 'make lock' $(LOCK_FLAGS)

help: ## show this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

# Rebuilt from nothing when the locks change, so that it never holds more than they name.
$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: collectkit needs Python 3.11 or newer; say which: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
		|| { echo "make: $(PYTHON) has no ensurepip; on Debian: apt install python3-venv" >&2; exit 1; }
	@echo "setting up $(VENV) from requirements/dev.txt"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install -qq --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/dev.txt
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --no-index --editable .
	@touch $@

venv: $(READY) ## set up .venv (the other targets do so by themselves)

demo: $(READY) ## all shipped collectors on recorded days, on servers of its own, without the network
	@$(BIN)/python -m tests.demo

run: $(READY) ## everything on this machine against the real sources; Ctrl-C stops it
	@$(BIN)/collectkit up

test: $(READY) ## all tests; make test ARGS='tests/unit -k cron' for some
	@$(BIN)/python -m pytest --numprocesses=$(PROCESSES) --dist=loadfile $(ARGS)

chaos: $(READY) ## kill, stop and cut everything; SEED=1 SEEDS=1 KILLS=300; some: ARGS='-k soak' or ONLY='commit.*/kill/*'
ifeq ($(ONLY)$(ARGS),)
	@$(CHAOS) -rP --numprocesses=$(PROCESSES) --dist=loadfile $(CHAOS_ALL) $(CHAOS_ALONE:%=--ignore=%); code=$$?; \
		[ $$code -le 1 ] || exit $$code; \
		$(CHAOS) -s $(CHAOS_ALONE) || exit; \
		[ $$code = 0 ] || { echo "make chaos: a test of the first half failed, see above" >&2; exit 1; }
else
	@$(CHAOS) -s $(CHAOS_ALL) $(if $(ONLY),-k every_fault) $(ARGS)
endif

# Its data file needs a name that holds in every directory: the children have others. Without the crash matrix, which has
# threads interrupted while they wait outside the interpreter: under a tracer CPython 3.11 does nothing else until then.
coverage: export COVERAGE_FILE = $(CURDIR)/build/coverage/data
coverage: $(READY) ## the tests, with the branches of the core that they take, children included; fails under 95 %
	@rm -rf build/coverage
	@$(BIN)/coverage run -m pytest --numprocesses=$(PROCESSES) --dist=loadfile --timeout=900 -o faulthandler_timeout=2000 --ignore=tests/chaos/test_crashes.py $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

$(MUTATION): requirements/mutation.txt $(READY)
	@$(BIN)/pip install -qq --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/mutation.txt
	@touch $@

mutation: $(MUTATION) ## change the core in small ways and count what the tests see; MUTANTS=100 of each module, SEED=1
	@MUTANTS=$(MUTANTS) SEED=$(SEED) $(BIN)/python -m tests.mutation

lint: $(READY) ## style, formatting, types, imports
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo

format: $(READY) ## format, and mend what can be mended
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

# Without the network it stays away, and the bench does without.
$(RIVALS)/.ready: $(RIVALS_LOCK).txt
	@echo "setting up $(RIVALS) from $(RIVALS_LOCK).txt"
	@$(PYTHON) -m venv --clear $(RIVALS)
	@$(RIVALS)/bin/pip install -qq --disable-pip-version-check --require-hashes --only-binary :all: -r $(RIVALS_LOCK).txt
	@touch $@

bench: $(READY) ## every measurement of tests/bench
	@$(MAKE) --silent $(RIVALS)/.ready 2>/dev/null || true
	@set -e; for bench in tests/bench/*.py; do \
		[ -e "$$bench" ] || { echo "make: no bench in tests/bench" >&2; exit 1; }; \
		echo "$$bench"; $(BIN)/python "$$bench"; \
	done

lock: $(READY) ## bring the locks in line with pyproject.toml; LOCK_FLAGS=--upgrade for newer versions
	@$(COMPILE) pyproject.toml -o requirements/runtime.txt
	@$(COMPILE) --group build -o requirements/build.txt
	@$(COMPILE) pyproject.toml --extra embedded --group dev \
		-c requirements/runtime.txt -c requirements/build.txt -o requirements/dev.txt
	@$(COMPILE) $(RIVALS_LOCK).in -c requirements/runtime.txt -o $(RIVALS_LOCK).txt
	@$(COMPILE) --group mutation -c requirements/dev.txt -o requirements/mutation.txt

clean: ## remove everything that make made; var/ (your data) stays
	@rm -rf $(VENV) $(RIVALS) build dist mutants .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
