# make demo        watch the network learn from generated JPEG files, on any machine (DATA=DIR: from your class folders)
# make test        the tests, all on the CPU
# make check       lint, types and all tests, as CI runs them: those that take long, too
# make rehearse    those of the tests that emulate machines with GPUs
# make faults      breaks real runs in every way that is known, and prints what was lost (half an hour)
# make clients     Lightning, Accelerate, fastai, Ray and timm by the lines of docs/pipeline.md, in .clients
# make gpu-check   on a machine with GPUs: the tests for them and every benchmark (DATA=DIR: prepared photographs)
#
# Each sets up .venv by itself. TORCH is what pip installs as PyTorch; the default brings CUDA along.
# Without a GPU, a CPU build is smaller: make test TORCH=torch==2.13.0, or a wheel, or whatever pip takes.
# `make clients` needs a torchvision beside it: TORCH='torch==2.14.1 torchvision==0.29.1'.

PYTHON ?= python3
TORCH ?= torch
BIN := .venv/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist worksteal

.PHONY: demo test rehearse check faults clients gpu-check clean

demo: .venv/demo
	$(BIN)/alexnet demo $(if $(DATA),--data "$(DATA)")

test: .venv/installed
	$(PYTEST) -m "not gpu and not slow" --ignore tests/fuzz

rehearse: .venv/installed
	$(PYTEST) -rs -m "not gpu" tests/rehearsal

check: .venv/installed build/alexnet_dali
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -m "not gpu"

faults: .venv/installed
	$(BIN)/alexnet faults

clients: .clients/installed
	.clients/bin/pytest -q -rA tests/clients/recipes.py

gpu-check: .venv/installed build/alexnet_dali
	$(BIN)/alexnet gpu-check $(if $(DATA),--data "$(DATA)")

clean:
	rm -rf .venv .clients .demo build

# For mypy, which does not see an editable installation.
build/alexnet_dali:
	mkdir -p $@
	for package in model pipeline tools train; do ln -s ../../$$package $@/; done

.venv/demo: EXTRA = plots
.venv/installed: EXTRA = dev
.clients/installed: EXTRA = clients
.venv/demo .venv/installed .clients/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet $(TORCH)
	$(@D)/bin/python -m pip install --quiet --editable '.[$(EXTRA)]'
	touch $@
