# Each target installs what it needs into $(VENV), once, and may be repeated.
#   PYTHON=python3.12      the Python to use (3.11 or newer; found by itself otherwise)
#   VENV=/some/directory   another place for the virtual environment
#   ARGS="-k links -x"     more arguments for pytest, gofer demo, the bench or the soak; ARGS="-m slow": the slow tests alone
#   NEWEST=1               the newest release of each library, instead of those in tests/constraints.txt
#   BROKERS=rabbitmq4      which brokers `make brokers` and `make pairs` use; names with commas
#   SYSTEM_PYTHON=/usr/bin/python3.12   the Python of the machines that `make packages` is for
#   JOBS=2                 how many processes share the tests; 0: the one that pytest runs in

PYTHON ?=
VENV ?= .venv
ARGS ?=
JOBS ?= 4
BROKERS ?= rabbitmq,rabbitmq4,brokerj,artemis

# Some containers set it. Each of the processes that the tests start would compile all of gofer.
unexport PYTHONDONTWRITEBYTECODE

# The distributions of this repository, the core first: the others require it.
FOUND := $(patsubst %/pyproject.toml,%,$(wildcard gofer_*/pyproject.toml gofer_*/*/pyproject.toml))
DISTRIBUTIONS := gofer_core $(sort $(filter-out gofer_core,$(FOUND)))
# Those whose libraries pip compiles. Only the tests need them: a first look must not ask for a compiler.
COMPILED := gofer_adapters/proton gofer_plugins_system/virt

# The marks that remember what is installed already.
INSTALLED := $(VENV)/.gofer-installed
TOOLS := $(VENV)/.gofer-test-tools

# Tests that share something expensive are one group, and run in one process.
pytest := $(VENV)/bin/python -m pytest -n $(JOBS) --dist loadgroup

# What a run is made with is written down: a release of the day must not decide whether the tests pass. NEWEST=1 asks for
# the newest of everything; `make constraints` then keeps what was installed.
CONSTRAINTS := tests/constraints.txt
pip := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(if $(NEWEST),--upgrade,--constraint $(CONSTRAINTS))

.PHONY: help demo test brokers pairs check unit flow docs reference metadata man dist packages bench soak constraints clean
.NOTPARALLEL:

help:
	@echo "make demo    install gofer into $(VENV) and watch an agent, a plugin and a few calls"
	@echo "make test    everything: the checks below and all tests, brokers included"
	@echo "make brokers the tests of brokers, on RabbitMQ 3 and 4, Broker-J and Artemis, which it makes under build/ (as root)"
	@echo "make pairs   the same flows over all pairs of adapters, on the same brokers"
	@echo "make check   ruff, mypy --strict, import-linter and the pinned public names"
	@echo "make unit    the tests that need nothing but Python, without the slow ones"
	@echo "make flow    the tests of whole processes, on the broker that gofer brings along, without the slow ones"
	@echo "make dist    sdist and wheel of each distribution, in dist/, checked and tried"
	@echo "make packages  a .deb and an .rpm of those, in dist/, too"
	@echo "make man     the man pages, in build/man"
	@echo "make metadata  copy version and licence, which all distributions share, into each"
	@echo "make bench   the speed of calls beside raw py-amqp, on a RabbitMQ of its own"
	@echo "make soak    ten minutes of calls while goferd and RabbitMQ are killed at random"
	@echo "make docs    the documentation as a site, in build/site"
	@echo "make clean   remove what the others made"

demo: $(INSTALLED)
	$(VENV)/bin/gofer demo $(ARGS)

test: $(TOOLS) check
	@scripts/need $(VENV)/bin/python broker compiler packages $(if $(CI),browser promtool)
	$(pytest) $(ARGS)

brokers: $(TOOLS)
	@scripts/need $(VENV)/bin/python broker compiler
	GOFER_CONTRACT_TABLE=1 scripts/brokers/run build/brokers $(BROKERS) $(pytest) tests/brokers tests/contract $(ARGS)

pairs: $(TOOLS)
	@scripts/need $(VENV)/bin/python broker
	GOFER_PAIRS=all scripts/brokers/run build/brokers $(BROKERS) $(pytest) tests/brokers/test_pairs.py $(ARGS)

check: $(TOOLS)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict
	MYPYPATH=bench:tests $(VENV)/bin/mypy --strict --package soak
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/python -m pytest -q tests/unit/test_public_names.py

unit: $(TOOLS)
	$(pytest) -m "not slow" tests/unit $(ARGS)

flow: $(TOOLS)
	$(pytest) -m "not slow" tests/flow $(ARGS)

bench: $(TOOLS)
	@scripts/need $(VENV)/bin/python broker
	PYTHONPATH=tests $(VENV)/bin/python bench/run.py $(ARGS)

soak: $(TOOLS)
	@scripts/need $(VENV)/bin/python broker
	PYTHONPATH=bench:tests $(VENV)/bin/python -m soak $(ARGS)

docs: $(TOOLS) reference
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --quiet --strict
	@echo "build/site/index.html is its first page."

# The tables of sections and keys in docs/configuration.md, written from those that configuration is read by.
reference: $(TOOLS)
	@PYTHONPATH=tests $(VENV)/bin/python -m support.reference

# Version, classifiers and licence of each distribution, written from [tool.gofer] in pyproject.toml and from LICENSE.
metadata: $(TOOLS)
	@PYTHONPATH=tests $(VENV)/bin/python -m support.metadata

# Written from the help of the commands and the texts of docs/; `man -l build/man/man8/goferd.8` shows one.
man: $(TOOLS)
	@PYTHONPATH=tests $(VENV)/bin/python -m support.manpages build/man

dist: $(TOOLS)
	@scripts/dist $(VENV)/bin/python dist $(DISTRIBUTIONS)

packages: dist
	@SYSTEM_PYTHON=$(SYSTEM_PYTHON) scripts/packages $(VENV)/bin/python dist

# To test with newer releases: `make clean`, `make test NEWEST=1`, and when all is well, this.
constraints: $(TOOLS)
	@{ sed '/^[^#]/d' $(CONSTRAINTS); $(VENV)/bin/python -m pip freeze --exclude-editable | grep -vi '^gofer'; } > $(CONSTRAINTS).new
	@mv $(CONSTRAINTS).new $(CONSTRAINTS)

clean:
	[ ! -e $(VENV)/pyvenv.cfg ] || rm -rf $(VENV)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -path ./.git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# No recipe: an environment whose Python went away (a moved directory, a new Python) makes the mark below out of date.
$(VENV)/bin/python: ;

$(INSTALLED): $(VENV)/bin/python $(addsuffix /pyproject.toml,$(DISTRIBUTIONS)) $(CONSTRAINTS)
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || scripts/make-venv $(VENV) $(PYTHON)
	@echo "Installing gofer into $(VENV)"
	@$(pip) $(addprefix --editable ./,$(filter-out $(COMPILED),$(DISTRIBUTIONS)))
	@touch $@

$(TOOLS): $(INSTALLED) tests/requirements.txt
	@scripts/need $(VENV)/bin/python proton libvirt
	@echo "Installing what the tests need into $(VENV)"
	@$(pip) $(addprefix --editable ./,$(COMPILED)) --requirement tests/requirements.txt
	@touch $@
