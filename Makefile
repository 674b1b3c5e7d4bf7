# `make` lists the targets. Each makes .venv and installs what it needs, once; needed beforehand: Python 3.11 or 3.12.

SHELL := /bin/sh
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
# A supported Python that runs and can make a virtual environment; empty if there is none. 3.11 comes first because
# local CPU builds of torch are more often made for it.
PYTHON = $(shell for candidate in python3.11 python3.12 python3 python; do \
	"$$candidate" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	>/dev/null 2>&1 && { command -v "$$candidate"; break; }; done)

.PHONY: help trial test lint wheels test-wheels pages lock stack-environments \
	bench bench-coverage bench-looks bench-looks-cost bench-memory bench-kill bench-races bench-fuzz bench-faults \
	bench-thresholds bench-live bench-golden bench-stacks bench-models bench-threads

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

trial: $(VENV)/.run-ready ## train and judge the embedded trial; outputs/stage1_align_tiny holds the results
	$(BIN)/qwen3-vlm trial --overwrite

# Two processes of one thread each: on two cores faster than one after the other, and no test spins on another's core.
test: $(VENV)/.dev-ready ## the whole test suite, of both packages
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.dev-ready ## ruff, format, mypy and the import contracts, for both packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Leftovers of an earlier build would end up in the wheels.
wheels: $(VENV)/.run-ready ## dist/: the wheels of eyechart and qwen3-vlm
	rm -rf build eyechart/build dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist ./eyechart .

test-wheels: wheels ## the wheels in a clean environment and an empty folder: the trial ends in PASS
	.ci/wheels "$(PYTHON)"

pages: $(VENV)/.run-ready ## what people are shown of a run, made again: README, docs/*.html, docs/*.png; look at it
	$(BIN)/python benchmarks/pages.py

bench: $(VENV)/.run-ready ## how well the trained connectors write, 20 seeds and the controls, speed: tables
	$(BIN)/python benchmarks/captions.py
	$(BIN)/python benchmarks/seeds.py --seeds 20
	$(BIN)/python benchmarks/speed.py

bench-coverage: $(VENV)/.run-ready ## do the 95% intervals hold the truth 95% of the time: 2,000 simulated runs
	$(BIN)/python benchmarks/coverage.py --runs 2000

bench-looks: $(VENV)/.run-ready ## how often does a run say falsely that it begins to look: 5,000 simulated runs
	$(BIN)/python benchmarks/looks_error.py --runs 5000

bench-looks-cost: $(VENV)/.dev-ready ## what checks, looks and the final score cost in a training of 1,000 steps
	PYTHONPATH=eyechart/tests $(BIN)/python benchmarks/looks_cost.py

bench-memory: $(VENV)/.dev-ready ## anonymous memory at 500 and at 10,000 samples, training and check 1
	$(BIN)/python benchmarks/memory.py

N ?= 200
bench-kill: $(VENV)/.dev-ready ## N (200) SIGKILLs of training, also inside a save, and N of other commands (resumable)
	$(BIN)/python benchmarks/kill.py --n $(N)
	$(BIN)/python benchmarks/kill_commands.py --n $(N)

bench-races: $(VENV)/.dev-ready ## N (200) times two commands in one folder at once: no files of two runs (resumable)
	$(BIN)/python benchmarks/races.py --n $(N)

bench-fuzz: $(VENV)/.dev-ready ## 5,000 damaged data files, 2,000 damaged images, 82 bombs: a result or one clear error
	$(BIN)/python benchmarks/fuzz.py --json 5000 --images 2000

bench-faults: $(VENV)/.dev-ready ## every fault injected, and healthy set-ups; writes docs/fault-benchmark.md
	$(BIN)/python benchmarks/faults.py

bench-thresholds: $(VENV)/.dev-ready ## the statistics that thresholds cut, over healthy runs; writes docs/thresholds.md
	$(BIN)/python benchmarks/thresholds.py

bench-live: $(VENV)/.dev-ready ## 18 sabotages of live models and collators on two trained tiny models: none may pass
	$(BIN)/python benchmarks/live_sabotages.py

BEFORE ?= 4c424e3
bench-golden: $(VENV)/.run-ready ## the trial of commit BEFORE and of this version: every figure has to be equal
	$(BIN)/python benchmarks/golden.py --before $(BEFORE)

bench-stacks: $(VENV)/.run-ready ## does pip accept eyechart beside five training stacks; writes docs/stacks.md
	$(BIN)/python benchmarks/stacks.py

# torchvision and timm go to a folder of their own: beside a CPU build of torch, torchvision cannot be imported without
# the operators that benchmarks/model_stub.py declares, and would break every other use of the environment.
bench-models: $(VENV)/.dev-ready ## every image-text-to-text type at tiny width against its own forward; writes docs/models.md
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --no-deps --target $(VENV)/models torchvision timm
	PYTHONPATH=$(VENV)/models $(BIN)/python benchmarks/models.py
	for older in "5.6.0 tokenizers==0.22.2" 5.16.1 5.17.0; do set -- $$older; \
		$(PIP) --require-hashes --no-deps --upgrade --target $(VENV)/models-$$1 -r locks/models.txt && \
		$(PIP) --no-deps --upgrade --target $(VENV)/models-$$1 transformers==$$older && \
		PYTHONPATH=$(VENV)/models-$$1:$(VENV)/models $(BIN)/python benchmarks/models.py --used || exit 1; \
	done

# TRL and what it needs come into a folder of their own, so that the environment of the tests stays as it is.
THREADS := outputs/threads-packages
bench-threads: $(VENV)/.dev-ready ## public threads made again in the stacks where they happened; writes docs/threads.md
	test -d $(THREADS)/trl || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--target $(THREADS) --require-hashes -r locks/threads.txt
	PYTHONPATH=eyechart/tests:$(THREADS) $(BIN)/python benchmarks/threads.py

# bench-threads trains in these where they exist, and keeps the results of the others.
stack-environments: $(VENV)/.dev-ready ## LLaMA-Factory, ms-swift, axolotl, each in an environment of its own, for bench-threads
	$(BIN)/python benchmarks/stack_environments.py

# Everything comes in the versions and with the hashes of locks/*.txt. The exception is torch: its CPU builds differ from
# machine to machine, so only its version is fixed, and on a machine with a GPU it brings its own CUDA libraries.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCKS := pyproject.toml eyechart/pyproject.toml constraints.txt locks/run.txt locks/dev.txt
OURS := --no-deps --no-build-isolation -e eyechart -e .

$(VENV)/.run-ready: $(LOCKS) | $(VENV)/bin/python
	$(PIP) --require-hashes --no-deps -r locks/run.txt
	$(PIP) -c constraints.txt torch
	$(PIP) $(OURS)
	@touch $@

$(VENV)/.dev-ready: $(LOCKS) | $(VENV)/bin/python
	$(PIP) --require-hashes --no-deps -r locks/dev.txt
	$(PIP) -c constraints.txt torch
	$(PIP) $(OURS)
	@touch $@ $(VENV)/.run-ready

lock: ## locks/*.txt: constraints.txt and .ci/*.txt with the hashes of every file; read the diff
	.ci/lock "$(PYTHON)"

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "error: expected Python 3.11 or 3.12 with venv on the PATH, found neither;" \
		"install one (Debian: apt-get install python3 python3-venv)" >&2; exit 2; }
	"$(PYTHON)" -m venv $(VENV)
