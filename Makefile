# Everything a contributor needs; each target sets up what it uses. PYTHON is only the interpreter
# that creates .venv: all work happens inside .venv.
PYTHON ?= python3
VENV := .venv/bin/python
SETUP := $(PYTHON) tools/bootstrap.py

export PYTHONDONTWRITEBYTECODE := 1
# Waiting threads that spin make everything slower on a machine that has other work.
export OMP_WAIT_POLICY := PASSIVE
MAKEFLAGS += --no-print-directory

.PHONY: help setup test demo comfy lint bench clean

help:
	@echo "make setup   create .venv, fetch ComfyUI and a browser (other targets do it by themselves)"
	@echo "make test    lint, then every test that this machine can run"
	@echo "make demo    a first video, without any download of weights"
	@echo "make comfy   ComfyUI with the pack at http://127.0.0.1:8188 (COMFY_PORT=n for another)"
	@echo "make lint    ruff and mypy"
	@echo "make bench   every benchmark, one JSON report each"
	@echo "make clean   remove caches and build output; .venv and out stay"

setup:
	@$(SETUP)

test: setup
	@$(VENV) -m ruff check --quiet .
	@.venv/bin/pytest $(PYTEST_ARGS)  # python -m pytest would put the checkout on sys.path

demo: setup
	@$(VENV) tools/demo.py $(DEMO_ARGS)

comfy: setup
	@$(VENV) tools/comfy_run.py $(COMFY_ARGS)

lint: setup
	@$(VENV) -m ruff check .
	@$(VENV) -m mypy

bench: setup
	@set -e; for program in benchmarks/[!_]*.py; do \
		test -e "$$program" || { echo "benchmarks/ holds no program"; exit 1; }; \
		echo "== $$program"; $(VENV) "$$program"; \
	done

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
