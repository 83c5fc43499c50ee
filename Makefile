# `make demo`, `make test`, `make image`, `make bench`. Each sets up .venv by itself, once.
PYTHON ?= python3
UV_VERSION = 0.13.8
BIN = .venv/bin
READY = .venv/.ready
PEERS = benchmarks/peers/requirements
PEERS_READY = .bench/.ready

.PHONY: demo test test-all image bench bench-quick bench-growth lint types lock clean

demo: $(READY)
	$(BIN)/graft demo

test: $(READY)
	$(PYTEST)
# Two at a time: half of the tests wait for a server or a browser. A thread for each: where four share two cores, torch's wait
# for each other, and tests that learn take three times as long.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# What takes minutes too: longer fuzzing, more kills, load.
test-all: $(READY)
	$(PYTEST) -m "nightly or not nightly"

# The image with the latest run's package, built, started, and asked one question. Without a run: one on the sample.
# Where there is no Docker engine, $(IMAGE_CHECK) builds with buildah; it needs root.
image: $(READY)
	test -e runs/latest || $(BIN)/graft fit $(SAMPLE) --strategy probe
	$(BIN)/graft package
	$(BIN)/python -m zipfile -e $(SAMPLE) build/sample
	if test -x $(IMAGE_CHECK); then $(IMAGE_CHECK) build/sample/test/bag/001.png; else docker build -t graft-service .; fi
SAMPLE = training/sample/fashion-mnist.zip
IMAGE_CHECK = ../shared/tools/image-check

# Against other tools, in an environment of their own; about 35 minutes on two cores. Its tables: benchmarks/RESULTS.md.
bench: $(READY) $(PEERS_READY)
	$(BIN)/python benchmarks/bench.py
bench-quick: $(READY) $(PEERS_READY)
	$(BIN)/python benchmarks/bench.py --quick
# Whether a hundred times the images take a hundred times as long: 1,000, 10,000 and 100,000 of them. 5 GB of disk, an hour.
bench-growth: $(READY)
	$(BIN)/python benchmarks/growth.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

# uv, because it installs torch with its CUDA libraries in under a minute and checks every hash.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Graft needs Python 3.11 or newer; try: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

$(PEERS_READY): $(PEERS).lock | $(READY)
	test -x .bench/bin/python || $(PYTHON) -m venv .bench
	$(BIN)/uv pip install --quiet --python .bench/bin/python --require-hashes -r $(PEERS).lock
	touch $@

# The lock files hold exact versions and hashes, and name no registry.
lock: $(READY)
	$(BIN)/uv pip compile pyproject.toml --all-extras $(LOCK) -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml -c requirements.lock $(LOCK) -o requirements-service.lock
	$(BIN)/uv pip compile $(PEERS).in -c requirements.lock $(LOCK) -o $(PEERS).lock
LOCK = --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock"

clean:
	rm -rf .venv .bench build dist *.egg-info
