# `make help` lists the targets. Each installs what it needs into .venv by itself, once.

# cpu: the pinned versions of requirements-cpu.lock. cuda: what pyproject.toml allows, resolved on the machine.
ACCEL ?= cpu
ifeq ($(filter $(ACCEL),cpu cuda),)
$(error ACCEL=$(ACCEL) is not known: say ACCEL=cpu or ACCEL=cuda)
endif

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help demo test lint bench bench-reference bench-selection bench-signals bench-detox serve lock clean

UV := .venv/bin/uv
UV_VERSION := 0.13.9
INSTALLED := .venv/.installed-$(ACCEL)

# uv does not read pip's settings: hand over the package index, and the find-links folders if they hold the CPU build
# of torch for this Python; otherwise uv knows where PyTorch keeps its CPU builds.
define uv_settings
setting() { .venv/bin/python -m pip config get "global.$$1" 2>/dev/null || true; }
index=$${PIP_INDEX_URL:-$$(setting index-url)}
if [ -n "$$index" ]; then export UV_DEFAULT_INDEX=$${UV_DEFAULT_INDEX:-$$index}; fi
tag=$$(.venv/bin/python -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
folders=$${UV_FIND_LINKS:-$${PIP_FIND_LINKS:-$$(setting find-links)}}
if [ $(ACCEL) = cpu ]; then
    for folder in $${folders//,/ }; do
        if compgen -G "$$folder/torch-*+cpu-$$tag-*.whl" >/dev/null; then export UV_FIND_LINKS=$$folder; fi
    done
    if [ -z "$${UV_FIND_LINKS:-}" ]; then export UV_TORCH_BACKEND=cpu; fi
fi
export UV_HTTP_TIMEOUT=$${UV_HTTP_TIMEOUT:-300} VIRTUAL_ENV=$(CURDIR)/.venv
endef

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1|\2/p' Makefile | column -t -s '|'

demo: $(INSTALLED)  ## a real model fills a JSON schema, with weights, ESS and log Z
	@.venv/bin/reweigh demo

test: lint  ## lint, types and tests
	@.venv/bin/python -m pytest -n 2 --dist loadgroup --durations=15 --durations-min=5

lint: $(INSTALLED)  ## ruff and mypy
	@.venv/bin/ruff check .
	.venv/bin/mypy

bench: $(INSTALLED)  ## every measurement, one JSON line each; ARGS="overhead" for one
	@.venv/bin/reweigh bench $(if $(ARGS),$(ARGS),--all)

bench-reference: $(INSTALLED) .cache/genlm-venv/.installed  ## genlm-control on the shared tasks; ARGS="date --seeds 0 1"
	@model=$$(.venv/bin/python -m decoding.embedded_model)
	.cache/genlm-venv/bin/python -m bench.reference.genlm_run --model "$$model" $(ARGS)

bench-selection: $(INSTALLED) .cache/its_hub-venv/.installed .cache/optillm-venv/.installed  ## its_hub and optillm beside ours; ARGS="--k 4"
	@.venv/bin/python -m bench.bench_selection_reference $(ARGS)

bench-signals: $(INSTALLED) .cache/toxicity-judge/.made  ## detoxifying: the scorers that steer, and the judge that does not
	@.venv/bin/python -m bench.bench_signals $(ARGS)

bench-detox: $(INSTALLED) .cache/toxicity-judge/.made  ## detox beside what others do, with a plot; ARGS='--arms "plain;served both"'
	@.venv/bin/python -m bench.bench_detox $(ARGS)

serve: $(INSTALLED)  ## the OpenAI-compatible server; ARGS="--port 8001"
	@.venv/bin/reweigh serve $(ARGS)

lock: .venv/.uv  ## pin the lock files again; UPGRADE=1 takes newer versions
	@$(uv_settings)
	compile="$(UV) pip compile --no-annotate --quiet --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)"
	eval "$$compile" pyproject.toml --extra cpu --extra model --extra adaptation --extra dev --output-file requirements-cpu.lock
	for peer in genlm its_hub; do
	    eval "$$compile" bench/reference/$$peer.in --output-file bench/reference/$$peer.lock
	done
	for peer in optillm toxicity; do
	    eval "$$compile" bench/reference/$$peer.in --overrides bench/reference/$$peer.overrides --output-file bench/reference/$$peer.lock
	done

clean:  ## remove .venv, caches and build products
	rm -rf .venv .cache dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.uv:
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do
	    if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
	        echo "making .venv with $$("$$python" --version)"
	        "$$python" -m venv .venv
	        .venv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	        touch $@
	        exit
	    fi
	done
	echo "error: no Python 3.11, 3.12 or 3.13 found; install one, or name it: make PYTHON=/path/to/python3.11" >&2
	exit 1

.venv/.installed-cpu: .venv/.uv requirements-cpu.lock pyproject.toml
	@rm -f .venv/.installed-*
	$(uv_settings)
	$(UV) pip install --compile-bytecode --no-deps -r requirements-cpu.lock
	$(UV) pip install --quiet --no-deps --editable .
	touch $@

.cache/%-venv/.installed: bench/reference/%.lock | .venv/.uv
	@$(uv_settings)
	.venv/bin/python -m venv $(@D)
	$(UV) pip install --python $(@D)/bin/python --no-deps -r $<
	touch $@

# The judge of toxicity: two classifiers' weights as plain arrays.
.cache/toxicity-judge/.made: .cache/toxicity-venv/.installed bench/reference/toxicity_export.py
	@.cache/toxicity-venv/bin/python -m bench.reference.toxicity_export $(@D)
	touch $@

.venv/.installed-cuda: .venv/.uv pyproject.toml
	@rm -f .venv/.installed-*
	$(uv_settings)
	$(UV) pip install --editable '.[cuda,model,adaptation,dev]'
	touch $@
