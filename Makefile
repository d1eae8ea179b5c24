# `make demo` and `make test` need Python 3.11 or newer and nothing else: each sets up .venv first.

VENV ?= .venv
BIN := $(VENV)/bin
CODE := services tests proto

.DEFAULT_GOAL := help
.PHONY: help set-up demo test check format types contracts proto proto-check spelling bench lock clean

help: ## Show what can be made.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

set-up: ## Create .venv with the pinned dependencies of deploy/locks/.
	@deploy/set-up $(VENV)

demo: set-up ## Start the service, ask it for pictures over gRPC, write them to demo/.
	@$(BIN)/diptych demo --out demo

# A worker per core, four at most, each with one thread and 2 GB: a second thread of networks as
# small as these only waits for the first.
test: set-up ## Run the tests that need no GPU, no network and no downloaded weights.
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --maxprocesses 4 --dist worksteal -m "not gpu and not weights and not slow"

check: set-up lint types contracts proto-check spelling ## Lint, types, import contracts, proto drift, spelling.

lint: set-up
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)

format: set-up ## Rewrite the code to the house format.
	@$(BIN)/ruff check --fix $(CODE)
	@$(BIN)/ruff format $(CODE)

types: set-up
	@$(BIN)/mypy

contracts: set-up
	@$(BIN)/lint-imports

proto: set-up ## Regenerate services/diptych/v1 from proto/.
	@$(BIN)/python proto/generate.py

proto-check: set-up
	@$(BIN)/python proto/generate.py --check

spelling: set-up
	@$(BIN)/codespell README.md Makefile pyproject.toml proto docs deploy services tests

bench: set-up ## Measure against diffusers; prints tables and writes JSON.
	@$(BIN)/diptych bench inference

lock: set-up ## Resolve pyproject.toml again into deploy/locks/ (needs uv).
	@deploy/lock $(BIN)

clean: ## Remove what the other targets made.
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
