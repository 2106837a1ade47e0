# The project's few commands. Each prepares .venv itself, and that is instant when nothing changed.
#
#   make demo    the whole loop on this machine: four contributors, a real job, a receipt
#   make test    every test, in two processes
#   make lint    ruff and pyright
#   make lock    pin the versions of pyproject.toml again, into requirements.lock
#   make clean   remove .venv, caches and the local state in .cloudlinkup
#
# PYTHON=python3.12 chooses the interpreter that makes .venv (3.11 or newer). UV_TORCH_BACKEND=cpu installs PyTorch
# without CUDA (0.2 GB instead of 4.7 GB) where that build can be reached.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
# The set-up is done again when one of these changes.
KEY := $(shell cat pyproject.toml requirements.lock | cksum | tr ' ' '-')-$(UV_TORCH_BACKEND)
READY := $(VENV)/ready-$(KEY)
# Without bytecode every process of the stack compiles its packages anew, and starts half as fast.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint lock clean setup
.DEFAULT_GOAL := demo

demo: $(READY)
	@$(BIN)/cloudlinkup demo

test: $(READY)
	@$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

setup: $(READY)

$(READY):
	@echo "Preparing .venv: up to 3.3 GB to download, 5.7 GB on disk; 4.7 GB of that is PyTorch with CUDA (0.2 GB with"
	@echo "UV_TORCH_BACKEND=cpu). A minute on a fast line (1 Gbit/s), and packages in uv's cache are not fetched again."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed. Fix: make PYTHON=/path/to/python3.11"; exit 3; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(UV) || $(BIN)/pip install --quiet --disable-pip-version-check uv
	@export VIRTUAL_ENV="$(CURDIR)/$(VENV)" \
	  && $(UV) pip install --quiet --group torch \
	  && $(UV) pip install --quiet --no-deps --require-hashes -r requirements.lock \
	  && $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/ready-* && touch $@
	@echo "Ready."

# torch and what it brings are left out of the lock (dependency group "torch"): which build is right depends on the
# machine, and the index that serves it is the user's own.
lock: $(READY)
	@export VIRTUAL_ENV="$(CURDIR)/$(VENV)" \
	  && left_out=$$($(UV) pip compile --quiet --no-header --no-annotate --no-emit-index-url --group torch pyproject.toml \
	    | grep -oE '^(torch|triton|cuda-[a-z0-9-]+|nvidia-[a-z0-9-]+)' | sed 's/^/--no-emit-package /') \
	  && $(UV) pip compile --quiet --no-annotate --no-emit-index-url --generate-hashes --python-version 3.11 \
	    --custom-compile-command "make lock" $$left_out --extra huggingface --group stack --group dev -o requirements.lock pyproject.toml
	@head -n 2 requirements.lock; grep -c '==' requirements.lock

clean:
	@test ! -x $(BIN)/cloudlinkup || $(BIN)/cloudlinkup down
	rm -rf $(VENV) .cloudlinkup .pytest_cache .ruff_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
