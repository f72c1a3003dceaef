# Two commands do all the set-up: `make run` (the main job) and `make test`.
# uv resolves nothing here: it installs exactly what requirements.lock names, checked by hash.

PYTHON ?= python3
UV := .tools/bin/uv
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint lock clean

run: $(VENV)/.ready
	$(BIN)/python local_runner.py

test: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

# A new lock file means a new environment. Byte-compiling costs seconds once and saves 20 at
# every start of TFX.
$(VENV)/.ready: requirements.lock | $(UV)
	@$(UV) venv --quiet --allow-existing --python 3.10 $(VENV) || \
	  { echo "Python 3.10 is missing. Get it with: $(UV) python install 3.10"; exit 1; }
	@echo "installing the environment from requirements.lock, about a minute ..."
	@env -u PYTHONDONTWRITEBYTECODE $(UV) pip sync --quiet --python $(VENV) --require-hashes \
	  --compile-bytecode requirements.lock
	@touch $@

# uv from PATH if there is one, else its wheel from the package index, into the checkout.
$(UV):
	@mkdir -p $(dir $(UV))
	@if command -v uv >/dev/null 2>&1 && uv --version >/dev/null 2>&1; then \
	  ln -sf "$$(command -v uv)" $(UV); \
	else $(PYTHON) -m pip install --quiet --root-user-action=ignore \
	  --target .tools --upgrade uv; fi

# pyfarmhash has no wheel for Linux: see overrides.txt.
lock: | $(UV)
	$(UV) pip compile --quiet --python-version 3.10 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --override overrides.txt --output-file requirements.lock requirements.in

clean:
	rm -rf $(VENV) .tools output
