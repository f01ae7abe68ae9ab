# nntrain: `make run` and `make test` are all a newcomer needs.

PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install install-dev run ui test lint shape types bench bench-tracking wheel clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first, by its exact version, so that no other package installs a different build
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(PIP) $$(grep '^torch==' constraints.txt)
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) -e '.[mlflow,sweeps,plots]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed ## make the environment for running

install-dev: $(VENV)/.installed-dev ## make the environment for developing

run: $(VENV)/.installed ## train the default, tracked in MLflow; ARGS='model=cnn lr=3e-3' overrides
	$(BIN)/python -m nntrain.run $(ARGS)

ui: $(VENV)/.installed ## look at the runs in the MLflow UI
	$(BIN)/mlflow ui --host 127.0.0.1 --port 5000

# three at once even on two cores: the slow ones mostly wait for servers and processes
test: $(VENV)/.installed-dev ## run the tests; ARGS='-m "not slow"' for the fast ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile $(ARGS)

lint: $(VENV)/.installed-dev ## ruff check and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

shape: $(BIN)/python ## print rooms, floors and arrows of the imports; ARGS=--check fails on a circle
	$(BIN)/python .ci/shape.py $(ARGS)

# mypy does not follow setuptools' package-dir: it gets a tree of links like the installed packages
types: $(VENV)/.installed-dev ## mypy --strict over all packages
	@rm -rf build/types && mkdir -p build/types/nntrain build/types/hydra_plugins
	@for path in nntrain/*; do ln -s "$(CURDIR)/$$path" build/types/nntrain/; done
	@for name in conf integrations sweeps; do ln -s "$(CURDIR)/$$name" build/types/nntrain/$$name; done
	@ln -s "$(CURDIR)/sweeps/plugin" build/types/hydra_plugins/nntrain_sweeper
	cd build/types && MYPYPATH=. $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --strict -p nntrain -p hydra_plugins.nntrain_sweeper
	$(BIN)/mypy --strict .ci/shape.py

bench: $(VENV)/.installed-dev ## measure the loop against a plain PyTorch loop
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/loop.py

bench-tracking: $(VENV)/.installed-dev ## measure tracked fits against untracked ones
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/tracking.py

wheel: $(VENV)/.installed-dev ## build dist/*.whl
	$(BIN)/python -m build --wheel --outdir dist

clean: ## remove what was built
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
