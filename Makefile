# Every entry sets up .venv by itself. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

help:
	@echo "make install     what all tools need, into .venv; then: source .venv/bin/activate"
	@echo "make demo        install, then train, evaluate, export and check a U-Net on the bundled nuclei"
	@echo "make exported    train and export the nuclei files of exported/ again; 20 minutes on two cores"
	@echo "make test        install, then lint and the default tests"
	@echo "make test-slow   the tests that take long"
	@echo "make test-clients  our files in MediaPipe and in Chromium; needs npm and chromium"
	@echo "make lint        ruff alone"
	@echo "make format      let ruff rewrite what it can"

$(VENV)/.installed: setup.py .ci/constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "kseg needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	@echo "Installing TensorFlow, JAX and the rest into $(VENV): three gigabytes, one to five minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt -e '.[all,dev]'
	@touch $@

install: $(VENV)/.installed

demo: install
	PATH="$(CURDIR)/$(BIN):$$PATH" bash tools/demo.sh runs/demo

exported: install
	PATH="$(CURDIR)/$(BIN):$$PATH" bash tools/exported.sh runs/exported

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test-slow: install
	$(BIN)/python -m pytest -m slow

test-clients: install
	KSEG_CLIENTS=required $(BIN)/python -m pytest -m slow tests/clients

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: help install demo exported lint test test-slow test-clients format
