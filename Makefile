# Everything a contributor needs; each target sets up what it uses. PYTHON is only the interpreter
# that creates .venv: all work happens inside .venv.
PYTHON ?= python3
VENV := .venv/bin/python
SETUP := $(PYTHON) tools dev.bootstrap

export PYTHONDONTWRITEBYTECODE := 1
# Waiting threads that spin make everything slower on a machine that has other work.
export OMP_WAIT_POLICY := PASSIVE
MAKEFLAGS += --no-print-directory

# Programs that end within about a minute each on two cores; the others take many minutes.
QUICK_BENCH := aloe data denoise readout_cpu real references scene seam training

# GPU_PYTHON=python3 runs the GPU targets with an interpreter that has all they need: nothing is
# installed or fetched, so no network is needed. Only mirage_core becomes importable, by a link.
GPU_PYTHON ?=
GPU_PATH := $(CURDIR)/out/gpu
# A GPU is used by one process at a time, and that Python need not know how to start others.
ONE_PROCESS := -p no:xdist -p no:xdist.looponfail
WITHOUT_SETUP := PYTHONPATH="$(GPU_PATH)$${PYTHONPATH:+:$$PYTHONPATH}" $(GPU_PYTHON)

.PHONY: help setup check test demo comfy lint package compat bench bench-all gpu-ready gpu-test gpu-bench clean

help:
	@echo "make setup   create .venv, fetch ComfyUI and a browser (other targets do it by themselves)"
	@echo "make check   lint, types and the tests that need nothing else, in under two minutes"
	@echo "make test    lint, then every test that this machine can run"
	@echo "make demo    a first video, without any download of weights"
	@echo "make comfy   ComfyUI with the pack at http://127.0.0.1:8188 (COMFY_PORT=n for another)"
	@echo "make lint    ruff and mypy, the nodes with ComfyUI's own types"
	@echo "make package what the registry would take, tried in a fresh ComfyUI (out/package)"
	@echo "make compat  a small first shot with other versions of Python, ComfyUI, its frontend"
	@echo "make bench   the benchmarks that are done soon, one JSON report each"
	@echo "make bench-all  every benchmark; some of them take many minutes"
	@echo "make gpu-test   the tests that need a CUDA device"
	@echo "make gpu-bench  the readout on a CUDA device, one JSON report; then tokens beside colours"
	@echo "                (both: GPU_PYTHON=python3 to use that Python as it is, without any setup)"
	@echo "make clean   remove caches and build output; .venv and out stay"

setup:
	@$(SETUP)

check: setup
	@$(VENV) tools dev.check $(PYTEST_ARGS)

test: setup
	@$(VENV) -m ruff check --quiet .
	@$(VENV) tools dev.run_tests $(PYTEST_ARGS)

demo: setup
	@$(VENV) tools dev.demo $(DEMO_ARGS)

comfy: setup
	@$(VENV) tools dev.comfy_run $(COMFY_ARGS)

lint: setup
	@$(VENV) -m ruff check --quiet .
	@$(VENV) tools dev.check_types

package: setup
	@$(VENV) tools dev.package $(PACKAGE_ARGS)

compat: setup
	@$(VENV) tools dev.compat $(COMPAT_ARGS)

bench: BENCHMARKS := $(QUICK_BENCH:%=benchmarks/%.py)
bench-all: BENCHMARKS := $(wildcard benchmarks/[!_]*.py)

bench bench-all: setup
	@set -e; for program in $(BENCHMARKS); do echo "== $$program"; $(VENV) "$$program"; done

ifeq ($(GPU_PYTHON),)
gpu-ready:
	@$(SETUP) --no-browser

gpu-test: gpu-ready
	@.venv/bin/pytest $(ONE_PROCESS) -m gpu $(PYTEST_ARGS)

gpu-bench: gpu-ready
	@$(VENV) benchmarks/readout_gpu.py $(BENCH_ARGS)
	@folder=$$(mktemp -d) && $(VENV) -m mirage_core evaluate efficiency --tiny --size 1280x704 \
		--rooms 1 --device auto --out "$$folder"; code=$$?; rm -rf "$$folder"; exit $$code
else
gpu-ready:
	@mkdir -p "$(GPU_PATH)" && ln -sfn "$(CURDIR)/mirage_core" "$(GPU_PATH)/mirage_core"

gpu-test: gpu-ready
	@PYTHONSAFEPATH=1 $(WITHOUT_SETUP) -m pytest $(ONE_PROCESS) -m gpu tests/gpu $(PYTEST_ARGS)

gpu-bench: gpu-ready
	@$(WITHOUT_SETUP) benchmarks/readout_gpu.py $(BENCH_ARGS)
endif

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
