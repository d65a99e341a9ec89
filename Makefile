# Everything a person does here; CI runs `make lint test-all`. `make demo` and `make test` need nothing but Debian's python3
# (3.11 or newer, with venv) and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := meshbridge tests benchmarks deploy tools
# More workers than cores, since most tests wait for something. The tests of a file share its server: one worker runs them all.
WORKERS ?= 4
PYTEST = $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile

.PHONY: all demo test test-slow test-all test-again test-lowest lint format bench faults lock dist deb boot-test release-check clean programs

all: lint test

# The extras in brackets decide what is installed; the stamp is renewed when the project's own requirements change.
$(VENV)/.demo: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.demo
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[demo,test,lint]'
	touch $@

demo: $(VENV)/.demo
	@$(BIN)/meshbridge demo

# Debian's own mosquitto and prometheus, where this user may install them; the tests say what is missing otherwise.
programs:
	@tests/install-programs

# What a person waits for while they work. The order is random; the seed at the top gives the same order again:
# make test PYTEST_ADDOPTS=--randomly-seed=1234
test: $(VENV)/.dev programs
	$(PYTEST) -m "not slow"

# Packages in empty environments, benchmarks, deep fuzzing, many rounds of faults.
test-slow: $(VENV)/.dev programs
	$(PYTEST) -m slow

# With the lowest versions that pyproject.toml allows, in an environment of its own.
test-lowest: $(VENV)/.dev programs
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	$(BIN)/python -m tools.lowest > .venv-lowest/constraints.txt
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check --constraint .venv-lowest/constraints.txt --editable '.[demo,test]'
	.venv-lowest/bin/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile -m "not slow" \
		-W ignore::DeprecationWarning -W ignore::PendingDeprecationWarning

test-all: $(VENV)/.dev programs
	$(PYTEST)

# The tests that failed in the last run, one after the other: what passes now depends on the machine's load and is to be mended.
test-again: $(VENV)/.dev
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures=none -p no:randomly

lint: $(VENV)/.dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.words

format: $(VENV)/.dev
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/.dev programs
	$(BIN)/python benchmarks/run.py

faults: $(VENV)/.dev programs
	$(BIN)/python -m tests.faults.fuzz_wire --count 1000000 --seed $${SEED:-$$(date +%s)}
	$(BIN)/python -m pytest tests/faults tests/powercut --faults=long -p no:cacheprovider --timeout=3600
	end=$$(( $$(date +%s) + 3600 )); while [ $$(date +%s) -lt $$end ]; do \
		HOSTILE_SEED=$$(date +%s) HOSTILE_FUZZED=40 $(BIN)/python -m pytest tests/hostile -q -p no:cacheprovider || exit 1; done

# The image's dependencies, pinned with hashes; to be run again when pyproject.toml changes.
LOCK := CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options

lock: $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check pip-tools
	$(LOCK) $(addprefix --extra ,amqp kafka nats notify otlp redis) -o requirements.lock pyproject.toml
	$(LOCK) -o requirements-build.lock requirements-build.in

# Everything that a release ships, in dist/, with checksums.
dist: $(VENV)/.dev
	$(BIN)/python -m tools.dist

# A package for the Debian release that this runs on, in dist/.
deb:
	deploy/debian/build dist

# As root: Debian 12 and 13 in containers, booted by systemd-nspawn, from the package's installation to its purge.
# RELEASES=bookworm for one; needs debootstrap, systemd-container and the host's own apt sources. docs/adr has the report.
RELEASES ?= bookworm trixie
boot-test: $(VENV)/.dev
	$(BIN)/python -m tests.boot $(RELEASES)

# What can be checked before a release; it prints what is left for a person.
release-check: $(VENV)/.dev
	$(BIN)/python -m tools.release

clean:
	rm -rf $(VENV) .venv-lowest build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
