# make demo    watch the network learn from generated JPEG files, on any machine (DATA=DIR: from your class folders)
# make test    the tests;  make check: lint, types and tests, as CI runs them
#
# Each sets up .venv by itself. TORCH is what pip installs as PyTorch; the default brings CUDA along.
# Without a GPU, a CPU build is smaller: make test TORCH=torch==2.13.0, or a wheel, or whatever pip takes.

PYTHON ?= python3
TORCH ?= torch
BIN := .venv/bin

.PHONY: demo test check gpu-check clean

demo: .venv/installed
	$(BIN)/python -m tools.demo $(if $(DATA),--data "$(DATA)")

test: .venv/installed
	$(BIN)/pytest -q

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q

# What only a machine with GPUs can show: the tests marked gpu (two of them take two GPUs), and every benchmark.
# DATA is a prepared folder of photographs; without it, tests take generated images, and the step alone is measured.
gpu-check: .venv/installed
	DATA="$(DATA)" $(BIN)/pytest -m gpu -v -rs
	$(BIN)/python -m tools.bench step --json gpu-step.json
	$(if $(DATA),$(BIN)/python -m tools.bench pipeline --data "$(DATA)" --json gpu-pipeline.json)
	$(if $(DATA),$(BIN)/python -m tools.bench train --data "$(DATA)" --json gpu-train.json)

clean:
	rm -rf .venv .demo

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
