# `make demo`, `make test`, `make image`, `make bench`. The first call creates .venv.
PYTHON ?= python3
UV_VERSION = 0.13.8
BIN = .venv/bin
READY = .venv/.ready
PEERS = benchmarks/peers/requirements
PEERS_READY = .bench/.ready

.PHONY: demo test test-slow test-ci test-all image image-gpu sbom audit docs diagram pictures bench bench-serving bench-quick bench-growth mutate lint types lock clean

# Fit on the sample, serve the package and send one request. `graft demo --serve` keeps the page open until Ctrl-C.
demo: $(READY)
	$(BIN)/graft demo

test: $(READY)
	$(PYTEST)
# Two at a time: half of the tests wait for a server or a browser. One thread each: with more, torch's threads wait for each other,
# and tests that train take three times as long. Bytecode is written, because hundreds of tests start a process.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# End-to-end runs: kill and resume, hyperparameter searches, replays, every README command, load tests. CI runs these too.
test-slow: $(READY)
	$(PYTEST) -m "slow and not nightly"

# Both in one session, which creates the shared fixtures once. CI runs this.
test-ci: $(READY)
	$(PYTEST) -m "not nightly"

# All tests, including those that take minutes each: longer fuzzing, more kills, longer load tests.
test-all: $(READY)
	$(PYTEST) -m "slow or not slow"

# Build the image with the package of the latest run, start it and send one request. Without a run, fit one on the sample.
# $(IMAGE_CHECK), if present, builds with buildah instead of Docker, on a base of its own; it needs root.
# BASE_IMAGE=python:3.11-slim@sha256:… pins the base image; without it, the tag decides, which can move.
image: $(READY) sbom
	test -e runs/latest || $(BIN)/graft fit $(SAMPLE) --strategy probe
	$(BIN)/graft package
	$(BIN)/python -m zipfile -e $(SAMPLE) build/sample
	if test -x $(IMAGE_CHECK); then $(IMAGE_CHECK) build/sample/test/bag/001.png; else docker build $(BASE_IMAGE:%=--build-arg BASE_IMAGE=%) -t graft-service .; fi
# The image for GPUs, 7 GB. $(IMAGE_CHECK) starts it here too, on the CPU if there is no GPU.
image-gpu: $(READY)
	test -e runs/latest || $(BIN)/graft fit $(SAMPLE) --strategy probe
	$(BIN)/graft package
	$(BIN)/python -m zipfile -e $(SAMPLE) build/sample
	if test -x $(IMAGE_CHECK); then $(IMAGE_CHECK) build/sample/test/bag/001.png --target gpu; else docker build --target gpu $(BASE_IMAGE:%=--build-arg BASE_IMAGE=%) -t graft-service-gpu .; fi
SAMPLE = training/sample/fashion-mnist.zip
IMAGE_CHECK = ../shared/tools/image-check

# The Python packages of the image, as a CycloneDX bill of materials: build/graft-service.cdx.json.
sbom: $(READY)
	$(BIN)/python deploy/supply_chain/sbom.py build/graft-service.cdx.json

# Checks the lock files against the known advisories in deploy/supply_chain/advisories.toml; needs no network.
audit: $(READY)
	$(BIN)/python deploy/supply_chain/audit.py

# The documentation site, in build/docs; it opens from the file system. A broken link or anchor fails.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
# Draws the packages and their imports again, in docs/images/architecture.svg; a test compares it with the code.
diagram: $(READY)
	$(BIN)/python docs/generator/diagram.py

# Takes the pictures of the README again, in docs/images/, and runs the notebook in examples/ again; needs chromium.
pictures: $(READY)
	$(BIN)/python docs/make_pictures.py
	$(BIN)/python docs/run_notebook.py

# Comparison with other tools, in a separate environment; about 35 minutes on two cores. Results: benchmarks/RESULTS.md.
bench: $(READY) $(PEERS_READY)
	$(BIN)/python benchmarks/bench.py
# The comparison of servers alone; 12 minutes on two idle cores.
bench-serving: $(READY) $(PEERS_READY)
	$(BIN)/python benchmarks/bench.py serving
bench-quick: $(READY) $(PEERS_READY)
	$(BIN)/python benchmarks/bench.py --quick
# Scaling of time and memory with 1,000, 10,000 and 100,000 images. Needs 5 GB of disk and an hour.
bench-growth: $(READY)
	$(BIN)/python benchmarks/growth.py

# Makes one small mistake at a time in the modules of tests/mutation/modules.toml, and names those that no test notices. About an
# hour on two idle cores; `make mutate MUTATE="training/data/splits.py --sample 50"` takes a minute.
mutate: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutation/mutate.py $(MUTATE)

lint: $(READY) audit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

# uv installs torch with its CUDA libraries in under a minute and checks every hash. It also compiles all modules, as pip does:
# where PYTHONDONTWRITEBYTECODE is set, every command would compile a thousand of them again.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Graft needs Python 3.11 or newer; try: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

$(PEERS_READY): $(PEERS).lock | $(READY)
	test -x .bench/bin/python || $(PYTHON) -m venv .bench
	$(BIN)/uv pip install --quiet --compile-bytecode --python .bench/bin/python --require-hashes -r $(PEERS).lock
	touch $@

# The lock files contain exact versions and hashes, but no registry URL. All extras except heic, which is not permissive.
lock: $(READY)
	$(BIN)/uv pip compile pyproject.toml $(EXTRAS:%=--extra %) $(LOCK) -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml -c requirements.lock $(LOCK) -o requirements-service.lock
	$(BIN)/uv pip compile pyproject.toml --extra gpu -c requirements.lock $(LOCK) -o requirements-gpu.lock
	$(BIN)/uv pip compile $(PEERS).in -c requirements.lock $(LOCK) -o $(PEERS).lock
EXTRAS = train gpu int8 parquet search track dev docs bench
LOCK = --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock"

clean:
	rm -rf .venv .bench build dist *.egg-info
