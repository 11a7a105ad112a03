# The whole set-up: `make train` and `make test` work in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RANKS ?= 4

.PHONY: help train test bench docs notebooks lint clean
help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

train: $(VENV)/.mpi  ## set up, then train a small GPT on four ranks
	$(BIN)/mpirun -n $(RANKS) $(BIN)/python train.py $(ARGS)

test: $(VENV)/.mpi $(VENV)/.test $(VENV)/.docs  ## set up, then run every test, on up to 4 cores
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

bench: $(VENV)/.mpi $(VENV)/.test  ## measure every kernel against this machine's copy and GEMM rates
	$(BIN)/python -m pytest bench/ --benchmark-only --benchmark-enable $(ARGS)

docs: $(VENV)/.docs  ## build the site of the tutorials and the reference: build/site/index.html
	$(BIN)/python tutorials/site/build.py

notebooks: $(VENV)/.docs  ## the chapters as Jupyter notebooks: build/notebooks
	$(BIN)/python tutorials/site/notebooks.py

lint: $(VENV)/.test  ## style only
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:  ## remove the environment and build products (runs/ stays)
	rm -rf $(VENV) build dist *.egg-info

# Each stamp file records an extra that is installed; newer packaging files install it again.
$(VENV)/.%: setup.py pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$*]"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "minillm needs Python 3.10 or newer: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
