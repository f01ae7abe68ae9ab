# To try nntrain, run `make run`. To check a change, run `make test`.

PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
VENV ?= .venv
PORT ?= 5000
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install install-dev run ui test lint shape types bench bench-tracking wheel clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# install the pinned version of torch first, because other packages may install a different build
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(PIP) $$(grep '^torch==' constraints.txt)
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) -e '.[mlflow,sweeps,plots]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed ## create the environment for using nntrain

install-dev: $(VENV)/.installed-dev ## create the environment for development

run: $(VENV)/.installed ## train the default model and track it in MLflow; ARGS='model=cnn lr=3e-3' adds overrides
	$(BIN)/python -m nntrain.run $(ARGS)

ui: $(VENV)/.installed ## show the runs in the MLflow UI; PORT=5001 selects another port
	$(BIN)/mlflow ui --host 127.0.0.1 --port $(PORT)

# three test processes, even on two cores: slow tests mostly wait for servers and subprocesses
test: $(VENV)/.installed-dev ## run the tests; ARGS='-m "not slow"' runs only the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile $(ARGS)

lint: $(VENV)/.installed-dev ## ruff check and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

shape: $(BIN)/python ## print code and import statistics; ARGS=--check fails on forbidden imports
	$(BIN)/python .ci/shape.py $(ARGS)

# mypy ignores setuptools' package-dir, so link the packages into a tree with the installed layout
types: $(VENV)/.installed-dev ## mypy --strict over all packages
	@rm -rf build/types && mkdir -p build/types/nntrain build/types/hydra_plugins
	@for path in nntrain/*; do ln -s "$(CURDIR)/$$path" build/types/nntrain/; done
	@for name in conf integrations sweeps; do ln -s "$(CURDIR)/$$name" build/types/nntrain/$$name; done
	@ln -s "$(CURDIR)/sweeps/plugin" build/types/hydra_plugins/nntrain_sweeper
	cd build/types && MYPYPATH=. $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --strict -p nntrain -p hydra_plugins.nntrain_sweeper
	$(BIN)/mypy --strict .ci/shape.py

bench: $(VENV)/.installed-dev ## compare the speed of the Learner with a plain PyTorch loop
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/loop.py

bench-tracking: $(VENV)/.installed-dev ## compare the speed of fits with and without a tracker
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/tracking.py

wheel: $(VENV)/.installed-dev ## build dist/*.whl
	$(BIN)/python -m build --wheel --outdir dist

clean: ## remove build outputs and caches
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
