# `make run` and `make test` need no other set-up. uv installs exactly what a lock file names, checked
# by hash.

PYTHON ?= python3
UV := .tools/bin/uv
VENV := .venv
BIN := $(VENV)/bin

# TFX 1.21's wheels need glibc 2.39; without it this uses TFX 1.16. `make TFX=1.16 run` overrides
# the choice, and `make TFX_PYTHON=3.11 run` the Python.
TFX ?= $(shell printf '2.39\n%s\n' "$$(getconf GNU_LIBC_VERSION | cut -d ' ' -f 2)" | \
  sort -CV && echo 1.21 || echo 1.16)
LOCK_1.16 := requirements.lock
PYTHONS_1.16 := $(shell cat .python-version)
LOCK_1.21 := requirements-tfx-1.21.lock
PYTHONS_1.21 := >=3.11,<3.14
LOCK := $(or $(LOCK_$(TFX)),$(error TFX=$(TFX): there are lock files for 1.16 and 1.21))
TFX_PYTHON ?= $(PYTHONS_$(TFX))

.PHONY: run check test flink spark lint lock clean

run: $(VENV)/.ready
	$(BIN)/ssd run

# --no-loadscope-reorder keeps the order of tests/conftest.py: slow files first.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Everything but pipelines, engines, trainings and servers.
check: lint
	$(PYTEST) -m "not e2e and not slow"

test: lint
	$(PYTEST)

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# An engine on this machine, to try `--beam flink` and `--beam spark` (docs/beam.md).
flink spark: $(VENV)/.ready
	@$(BIN)/python -m engines.local $@

# A new lock file means a new environment, with the project installed in editable mode and its `ssd`
# command. Byte-compiling costs seconds once and saves 20 s at every start of TFX.
CHOICE := TFX $(TFX), Python $(TFX_PYTHON)
ifneq ($(CHOICE),$(shell cat $(VENV)/.ready 2>/dev/null))
.PHONY: $(VENV)/.ready
OTHER := --clear
endif
$(VENV)/.ready: $(LOCK) pyproject.toml setup.py | $(UV)
	@$(UV) venv --quiet $(or $(OTHER),--allow-existing) --python '$(TFX_PYTHON)' $(VENV) || \
	  { echo "Python $(TFX_PYTHON) is missing. Get it with: $(UV) python install '$(TFX_PYTHON)'"; \
	    exit 1; }
	@echo "installing the environment from $(LOCK), about a minute ..."
	@env -u PYTHONDONTWRITEBYTECODE $(UV) pip sync --quiet --python $(VENV) --require-hashes \
	  --compile-bytecode $(LOCK)
	@$(UV) pip install --quiet --python $(VENV) --no-deps --no-build-isolation --editable .
	@echo '$(CHOICE)' > $@

# uv from PATH, or else its wheel from the package index, installed into the checkout.
$(UV):
	@mkdir -p $(dir $(UV))
	@if command -v uv >/dev/null 2>&1 && uv --version >/dev/null 2>&1; then \
	  ln -sf "$$(command -v uv)" $(UV); \
	else $(PYTHON) -m pip install --quiet --root-user-action=ignore \
	  --target .tools --upgrade uv; fi

# overrides.txt replaces pyfarmhash, which has no wheel for Linux. --universal makes one lock file
# for all Pythons of TFX 1.21.
COMPILE = $(UV) pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links \
  --override overrides.txt
lock: | $(UV)
	$(COMPILE) --python-version $(PYTHONS_1.16) --output-file $(LOCK_1.16) requirements.in
	$(COMPILE) --python-version 3.11 --universal --output-file $(LOCK_1.21) requirements.in

clean:
	rm -rf $(VENV) .tools output
