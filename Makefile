# Two commands do everything: `make demo` and `make test`; `make test-all` is what CI runs, `make docs` builds the site.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock

# One process more than cores: tests wait for processes that they started, and for the clock.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# PyTorch, oneDNN and MKL with the kernels of a processor without AVX, and of one without AVX-512.
SSE := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2

.PHONY: demo test test-all rounding lint format docs figures reproduce release licences fuzz

demo: .venv/demo.stamp  ## train on digits, fit, judge clean, odd and attacked inputs, draw the picture
	$(BIN)/gradgeo demo --out demo-output

test: lint  ## before every commit: lint, types, and tests but for the costly ones, which it names (under 3 minutes)
	$(PYTEST) --quick

test-all: lint  ## lint, types, every test; with GRADGEO_DATA=FOLDER also those that need the trained classifiers
	$(PYTEST) --cpu-durations=20

# The kernels without AVX are several times slower: they are spared the tutorial.
rounding: .venv/dev.stamp  ## what rests on floating-point rounding, with the kernels of older processors
	$(SSE) $(PYTEST) -m "rounding and not simulation" --sample
	$(AVX2) $(PYTEST) -m rounding --sample

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/dev.stamp  ## the site, into site/; a broken link or anchor fails
	$(BIN)/python -m mkdocs build --strict

figures: .venv/dev.stamp  ## the pictures of the theory page, from the code
	OMP_NUM_THREADS=1 $(BIN)/python docs/figures.py

reproduce: .venv/dev.stamp  ## every page under results/ by the command it names (hours), and every picture
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks reproduce
	$(MAKE) figures demo
	cp demo-output/csm.png docs/csm.png
	$(BIN)/gradgeo path --model digits --data digits/test --index 7 --epsilon 0.3 --out docs/path.png

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo.stamp: pyproject.toml requirements.lock | .venv/bin/python
	$(PIP) -e '.[images,plots]'
	touch $@

.venv/dev.stamp: pyproject.toml requirements.lock | .venv/bin/python
	$(PIP) -e '.[dev]'
	touch $@ .venv/demo.stamp

# Tools for releases live apart, so that they are no part of what they describe.
TOOLS := .release/tools/bin
CLEAN := .release/clean/bin

release: .release/tools.stamp  ## sdist, wheel and bill of materials in dist/, once the wheel works where nothing else is
	rm -rf dist .release/clean
	$(TOOLS)/python -m build
	$(PYTHON) -m venv .release/clean
	$(CLEAN)/python -m pip install --quiet --disable-pip-version-check "$$(echo dist/*.whl)[images,plots]"
	$(CLEAN)/python -m pip check
	cd .release && clean/bin/gradgeo demo --out demo-output
	$(TOOLS)/cyclonedx-py environment --pyproject pyproject.toml --output-file dist/sbom.json $(CLEAN)/python
	$(TOOLS)/pip-licenses --python $(CLEAN)/python

licences: .venv/dev.stamp .release/tools.stamp  ## a dependency under a licence that pyproject.toml does not allow fails
	$(TOOLS)/pip-licenses --python $(BIN)/python

.release/tools.stamp: pyproject.toml
	$(PYTHON) -m venv .release/tools
	$(TOOLS)/python -m pip install --quiet --disable-pip-version-check 'build>=1.2' 'cyclonedx-bom>=7,<8' 'pip-licenses>=5.5,<6'
	touch $@

TARGET ?= detector
fuzz: .venv/dev.stamp  ## TARGET of tests/fuzz/targets.py, until stopped
	$(PIP) -e '.[fuzz]'
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run.py $(TARGET)
