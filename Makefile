# `make` lists the targets. Everything runs in .venv, which `make setup` makes; nothing is installed elsewhere.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

BIN := .venv/bin
TRAIN_ARGS ?=
SIZE ?=
BENCH_ARGS ?=
GPU_ARGS ?=
export PYTHON

.PHONY: help
help: ## List the targets
	@echo "Targets (variables in brackets):"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: ## Make .venv and build the ROS package: 5 min the first time [PYTHON=python3.12]
	@scripts/setup.sh

# Tests without ROS run in two processes; nodes and their clients need the cores for themselves.
PARALLEL := -n 2 --dist worksteal
NO_ROS := tests/unit tests/agent tests/server tests/docs tests/golden

.PHONY: test
test: setup ## Run all tests: 15 min on 2 cores, or some [PYTEST_ARGS="tests/unit -k rle"]
ifdef PYTEST_ARGS
	@scripts/run_in_env.sh python -m pytest $(PYTEST_ARGS)
else
	@echo "[test] tests without ROS, then those with it: 15 minutes on 2 cores"
	@failed=0; scripts/run_in_env.sh python -m pytest -q $(PARALLEL) $(NO_ROS) || failed=1; \
	scripts/run_in_env.sh python -m pytest -q tests/ros || failed=1; exit $$failed
endif

.PHONY: test-fast
test-fast: setup ## Run the tests that need no ROS and are not slow: 1 min
	@scripts/run_in_env.sh python -m pytest -q $(PARALLEL) -m "not slow" tests/unit tests/agent tests/server tests/docs $(PYTEST_ARGS)

.PHONY: test-nightly
test-nightly: setup ## Run the tests without ROS with other examples of Hypothesis each time, and more of them
	@scripts/run_in_env.sh python -m pytest -q $(PARALLEL) --hypothesis-profile=nightly $(NO_ROS) $(PYTEST_ARGS)

.PHONY: test-extras
test-extras: setup ## Run the tests of optional packages, in environments of their own: 5 min the first time [SETS=rosa]
	@scripts/test_extras.sh $(SETS)

.PHONY: check
check: lint test-fast ## Everything to run before a commit: lint and test-fast, 2 min

.PHONY: lint
lint: setup ## Format check, ruff, mypy, import rules: 1 min, seconds when repeated
	@scripts/lint.sh

.PHONY: format
format: setup ## Rewrite the code in the project's format and apply ruff's safe fixes
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

.PHONY: docs
docs: setup ## Build the documents as a website, with the API reference, in site/: 10 s
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "[docs] open site/index.html"

.PHONY: demo
demo: setup ## Ask a simulated camera, or a picture of yours, through ROS: 1 min [IMAGE=photo.jpg]
	@echo "[demo] about a minute; pictures go to demo_output/"
	@scripts/run_in_env.sh python examples/demo.py --out demo_output $(if $(IMAGE),--image "$(IMAGE)")

.PHONY: train-tiny
train-tiny: setup ## Train, publish and score a tiny model at smoke size: 2 min [TRAIN_ARGS="--set steps=50"]
	@echo "[train-tiny] scenes, three stages of a few steps, a checkpoint: about 2 minutes; all goes to runs/smoke/"
	@scripts/run_in_env.sh python -m xsam.train.pipeline --smoke --data runs/smoke/data --out runs/smoke $(TRAIN_ARGS)

.PHONY: soak
soak: setup ## Load the node and disturb it; is a request lost? 3 min and set-up of the load [MINUTES=60 SEED=0]
	@echo "[soak] $(or $(MINUTES),3) minutes of mixed load, then a line of JSON"
	@scripts/run_in_env.sh python -m benchmarks.ros.soak --minutes $(or $(MINUTES),3) --seed $(or $(SEED),0)

.PHONY: fuzz
fuzz: setup ## Send hostile requests to the node: about 3 min [REQUESTS=1000 SEED=1]
	@echo "[fuzz] $(or $(REQUESTS),1000) hostile requests, then a line of JSON"
	@scripts/run_in_env.sh python -m benchmarks.ros.fuzz --requests $(or $(REQUESTS),1000) $(if $(SEED),--seed $(SEED))

.PHONY: bench-agent
bench-agent: setup ## Score scripted planners that use the tools: 8 min [BENCH_ARGS="--model openai:gpt-5-mini"]
	@scripts/run_in_env.sh python -m benchmarks.agent $(BENCH_ARGS)

.PHONY: bench
bench: setup ## Measure speed and memory against the plain way: 15 min at most [SIZE=full for 4.6 G parameters]
	@echo "[bench] $(or $(SIZE),all but the large sizes); checkpoints with random weights are written to runs/bench/ once"
	@scripts/run_in_env.sh python -m benchmarks $(SIZE)

.PHONY: gpu-check
gpu-check: ## Check and measure everything that needs a GPU: 9 min at most [GPU_ARGS="--device cpu --size tiny"]
	@[[ -x $(BIN)/python ]] && python=scripts/run_in_env.sh\ python || python=$(or $(PYTHON),python3); \
	$$python -m benchmarks.gpu $(GPU_ARGS)

.PHONY: bench-ros
bench-ros: setup ## Images received with and without the profile, answers while the model works: 2 min
	@echo "[bench-ros] transport, responsiveness and memory of the node: three lines of JSON"
	@scripts/run_in_env.sh python -m benchmarks.ros.transport
	@scripts/run_in_env.sh python -m benchmarks.ros.responsiveness
	@scripts/run_in_env.sh python -m benchmarks.ros.memory

.PHONY: bench-server
bench-server: setup ## Latency, load and losses of the model server: 5 min [BENCH_ARGS="--only latency"]
	@scripts/run_in_env.sh python -m benchmarks.server $(BENCH_ARGS)

.PHONY: release
release: setup ## Build source archive, wheel and bill of materials (CycloneDX) in dist/: 20 s
	@scripts/release.sh

.PHONY: licenses
licenses: setup ## Write docs/licenses.md: what is installed with the package, and its licenses
	@$(BIN)/python scripts/dependencies.py page

.PHONY: lock
lock: ## Resolve the lock files in requirements/ again: 20 s [UPGRADE="ruff mypy"]
	@$(BIN)/python scripts/lock.py $(if $(UPGRADE),--upgrade $(UPGRADE))

.PHONY: clean
clean: ## Remove build products and caches; .venv stays
	rm -rf build install log dist site *.egg-info demo_output soak_output fuzz_output transport_output responsiveness_output memory_output runs/smoke
	rm -rf .venv/pycache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks
	find $(wildcard xsam xsam_ros xsam_agent_tools xsam_server support benchmarks examples tests) -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## Remove .venv as well
	rm -rf .venv .venv-extras
