# What a newcomer needs: Python 3.11 or later, and make. Everything else goes into .venv, from the lock with hashes.

# A distribution's Python first: it is built with profile-guided optimisation, and twice as fast as one that was compiled
# without, as pyenv does.
PYTHON ?= $(shell for p in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do \
  $$p -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.installed-from-lock
DATA ?= data
ARGS ?=
UV ?= uv
COMPILE = $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
  --no-header --no-emit-index-url pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help setup run test check bench torture lock clean

help:  ## This list
	@grep -hE '^[a-z]+:.*## ' Makefile | awk -F ':.*## ' '{ printf "make %-8s %s\n", $$1, $$2 }'

setup: $(STAMP)  ## Install into .venv what the lock names

$(STAMP): .lock/develop.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; name it with PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .lock/develop.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

run: setup  ## Start the gateway with the sample images; make run ARGS="--http-port 8081"
	-@find sample_dicom -name "*.dcm" -exec $(BIN)/dicomweb-gateway import --data $(DATA) {} +
	@exec $(BIN)/dicomweb-gateway serve --data $(DATA) $(ARGS)

test: check  ## All checks and all tests
	$(BIN)/python -m pytest -n 3 --dist loadfile -q $(ARGS)

check: setup  ## Format, lint, types, and who may import whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## Measure speed, beside Orthanc if installed; ARGS="--full --json FILE"
	$(BIN)/python -m benchmarks $(ARGS)

torture: setup  ## Half an hour of kills and faults; what was acknowledged must be there; ARGS="--minutes 5 --seed N"
	$(BIN)/python -m tests.torture $(ARGS)

lock:  ## Refresh .lock from pyproject.toml; needs uv
	$(COMPILE) --output-file .lock/runtime.txt
	$(COMPILE) --extra develop --output-file .lock/develop.txt

clean:  ## Remove .venv and caches; never the data
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
