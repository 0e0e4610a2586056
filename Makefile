# Nothing is decided here: every target is a command or two. `make help` lists them.
.PHONY: help install run mnist test coverage lint bench docs lock
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
LOCKED := $(BIN)/python -m pip install --quiet --require-hashes
TESTS := $(BIN)/pytest -m "not slow" -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

$(READY): requirements.lock pyproject.toml
	@echo "making .venv: once, some minutes, 8 GB on Linux" >&2; $(PYTHON) -m venv .venv
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock | $(LOCKED) -r /dev/stdin  # quicker than pip, which knows more networks
	@$(BIN)/uv pip install --python $(BIN)/python --quiet --system-certs --require-hashes --compile-bytecode -r requirements.lock || \
		{ echo "uv can't; pip tries, which takes longer" >&2; $(LOCKED) -r requirements.lock; }
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e . && touch $@

install: $(READY)  ## make .venv from the lock file; again only when that changes

run: $(READY)  ## train on handwritten digits for at most a minute
	@$(BIN)/inflame train mnist --in 60s

mnist: $(READY)  ## train mnist to the end of its recipe
	@$(BIN)/inflame train mnist

test: lint  ## all checks and all quick tests
	$(TESTS) --durations=15

coverage: $(READY)  ## which lines the quick tests run, in the processes that they start too
	$(TESTS) --cov --cov-config=tests/coverage.toml --cov-report= && $(BIN)/coverage report

lint: $(READY)  ## style, types and the arrows between the rooms
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports
	@$(BIN)/pytest -q -p no:cacheprovider tests/unit/test_deploy.py -k linters  # of workflows and images, where installed

bench: $(READY)  ## measure what is promised: benchmarks/README.md
	$(BIN)/python -m benchmarks

docs: $(READY)  ## write what is read off the code, and build the site (pip install '.[docs]')
	GOLDEN=write $(BIN)/pytest -q tests/golden/test_help.py tests/golden/test_reference.py tests/golden/test_http.py tests/golden/test_rooms.py
	$(BIN)/mkdocs build --strict && echo "site/: $(BIN)/python -m http.server --directory site"

lock: $(READY)  ## choose newer versions
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --extra train --extra keras --extra many --extra prune --extra hf --extra dvc --extra ray --extra sweep --extra postgres --extra web --extra aws --extra gcp --extra azure --extra docs --extra lint --extra dev --custom-compile-command "make lock" pyproject.toml -o requirements.lock
