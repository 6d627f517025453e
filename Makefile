# Every target sets up .venv by itself: a machine needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.installed
LOWEST := .venv-lowest/.installed

.PHONY: help setup demo test test-slow test-faults test-lowest check lint type format bench bench-gpu bench-gpu-diffusion clean

help:  ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

setup: $(SETUP)  ## install erase with its development tools into .venv

$(SETUP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(SETUP)  ## erase "cat" from mini-emoji, evaluate it, print the table (3 minutes)
	$(BIN)/erase demo

test: $(SETUP)  ## the default tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-slow: $(SETUP)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow --timeout 3600

test-faults: $(SETUP)  ## every provoked fault, the slow ones too; their table in runs/faults.md
	mkdir -p runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "fault and not gpu" --numprocesses auto --dist loadfile \
		--timeout 3600 --faults=runs/faults.md

test-lowest: $(LOWEST)  ## what has to work with the lowest versions that are declared
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -o filterwarnings=default \
		tests/lowest.py tests/test_versions.py tests/faults/test_model_folders.py \
		tests/faults/test_classifier_files.py tests/test_families.py

$(LOWEST): pyproject.toml constraints-lowest.txt
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint constraints-lowest.txt \
		--editable . pytest pytest-timeout
	.venv-lowest/bin/python -m pip install --quiet --no-deps --upgrade \
		--target .venv-lowest/transformers-4 \
		transformers==4.54.1 tokenizers==0.21.4 huggingface_hub==0.36.2 diffusers==0.34.0
	touch $@

lint: $(SETUP)  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(SETUP)  ## types
	$(BIN)/mypy

check: test lint type  ## what CI runs

format: $(SETUP)  ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(SETUP)  ## cost of a LUR step, of rendering and of NudeNet as ratios; memory estimates
	$(BIN)/python -m benchmarks.meta_step
	$(BIN)/python -m benchmarks.meta_step --model cnn-gelu
	$(BIN)/python -m benchmarks.meta_step --model resnet20
	$(BIN)/python -m benchmarks.render_speed
	$(BIN)/python -m benchmarks.nudenet_speed
	$(BIN)/python -m benchmarks.memory_estimate

bench-gpu: $(SETUP)  ## the classifier tables on CIFAR-10; needs a GPU and DATA=folder
	$(BIN)/python -m benchmarks.classifier_gpu --data-dir $(DATA)

bench-gpu-diffusion: $(SETUP)  ## SD-1.4's step, a CIFAR-10 DDPM; needs a GPU, DATA=folder, JUDGE=resnet56.th
	$(BIN)/python -m benchmarks.diffusion_gpu --data-dir $(DATA) --weights $(JUDGE)

clean:  ## remove the environment and caches
	rm -rf .venv .venv-lowest .mypy_cache .ruff_cache .pytest_cache
