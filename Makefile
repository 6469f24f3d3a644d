# Two commands do everything: `make demo` and `make test`; `make test-all` is what CI runs, `make docs` builds the site.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := -m pip install --quiet --disable-pip-version-check

# $(call install,FOLDER,GROUP,ARGUMENTS): into the environment in FOLDER, with the versions of the lock. With LOCKED=1,
# on the platform that its head names: only the files whose hashes it states, those of GROUP, and ourselves.
FOR_DEMO := -e '.[images,plots]'
FOR_RELEASED = "$$(echo dist/*.whl)[images,plots]"
FOR_RELEASES := 'build>=1.2' 'cyclonedx-bom>=7,<8' 'pip-licenses>=5.5,<6' 'hatchling>=1.25,<2' 'editables>=0.5,<1'
LOCKED ?=
ifeq ($(LOCKED),)
define install
sed 's/ *--hash=.*//' requirements.lock > $(1)/versions.txt
$(1)/bin/python $(INSTALL) -c $(1)/versions.txt $(3)
endef
else
define install
sed -n '/#.*\b$(2)\b/p' requirements.lock > $(1)/$(2).txt
$(1)/bin/python $(INSTALL) --require-hashes --no-deps --only-binary :all: -r $(1)/$(2).txt
$(if $(filter -e,$(3)),$(1)/bin/python $(INSTALL) --no-deps --no-build-isolation -e .)
endef
endif

# Each process rewrites the assertions of all tests; kept as bytecode, also where that is off, it is done once.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# PyTorch, oneDNN and MKL with the kernels of a processor without AVX, and of one without AVX-512.
SSE := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2

.PHONY: demo test test-all rounding lint style format docs figures screenshots try notebooks moving reproduce release lock licences fuzz

demo: .venv/demo.stamp  ## train on digits, fit, judge clean, odd and attacked inputs, draw the picture
	$(BIN)/gradgeo demo --out demo-output

test: style  ## before every commit: lint, types, and tests but for the costly ones, which it names (under 3 minutes)
	$(call beside_types,$(PYTEST) --quick)

test-all: style  ## lint, types, every test; with GRADGEO_DATA=FOLDER also those that need the trained classifiers
	$(call beside_types,$(PYTEST) --cpu-durations=20)

# $(call beside_types,TESTS): mypy takes one core, most of a minute where its cache is cold, so it runs while the tests
# do. What it found stands below them, and either failing is a failure.
define beside_types
mkdir -p .mypy_cache; $(BIN)/mypy > .mypy_cache/found 2>&1 & types=$$!; $(1); tests=$$?; \
	wait $$types; types=$$?; cat .mypy_cache/found; exit $$((tests ? tests : types))
endef

# Only files with the mark are collected. The kernels without AVX are several times slower: they are spared the tutorial.
ROUNDING := $$(grep -rl --include='test_*.py' 'pytest\.mark\.rounding' tests | sort)
rounding: .venv/dev.stamp  ## what rests on floating-point rounding, with the kernels of older processors
	$(SSE) $(PYTEST) -m "rounding and not simulation" --sample $(ROUNDING)
	$(AVX2) $(PYTEST) -m rounding --sample $(ROUNDING)

lint: style
	$(BIN)/mypy

style: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/dev.stamp  ## the site, into site/; a broken link or anchor fails
	$(BIN)/python -m mkdocs build --strict

figures: .venv/dev.stamp  ## the pictures of the theory page, from the code
	OMP_NUM_THREADS=1 $(BIN)/python docs/figures.py

try: .venv/dev.stamp  ## the detector that the docs' front page runs in a browser, and what runs it (npm)
	OMP_NUM_THREADS=1 $(BIN)/python docs/try.py

screenshots: .venv/dev.stamp  ## the report in a browser, as its page in the docs shows it
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python docs/screenshots.py

notebooks: .venv/dev.stamp  ## the tutorial as a notebook, for Colab and Binder
	$(BIN)/python docs/notebook.py

moving: .venv/demo.stamp  ## the moving picture of the demo, from what it prints
	OMP_NUM_THREADS=1 $(BIN)/python docs/moving.py

reproduce: .venv/laboratory.stamp  ## every page under results/ by the command it names (hours), and every picture
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks reproduce
	$(MAKE) figures demo
	cp demo-output/csm.png docs/csm.png
	$(BIN)/gradgeo path --model digits --data digits/test --index 7 --epsilon 0.3 --out docs/path.png

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo.stamp: pyproject.toml requirements.lock | .venv/bin/python
	$(call install,.venv,demo,$(FOR_DEMO))
	touch $@

.venv/dev.stamp: pyproject.toml requirements.lock | .venv/bin/python
	$(call install,.venv,dev,-e '.[dev]')
	touch $@ .venv/demo.stamp

.venv/laboratory.stamp: .venv/dev.stamp
	$(call install,.venv,laboratory,-e '.[laboratory,numba]')
	touch $@

# Tools for releases live apart, so that they are no part of what they describe.
TOOLS := .release/tools/bin
CLEAN := .release/clean/bin

release: .release/tools.stamp  ## sdist, wheel and bill of materials in dist/, once the wheel works where nothing else is
	rm -rf dist .release/clean
	$(TOOLS)/python -m build --no-isolation
	$(PYTHON) -m venv .release/clean
	$(call install,.release/clean,demo,$(FOR_RELEASED))
	$(CLEAN)/python $(INSTALL) --no-deps dist/*.whl
	$(CLEAN)/python -m pip check
	cd .release && clean/bin/gradgeo demo --out demo-output
	$(TOOLS)/cyclonedx-py environment --pyproject pyproject.toml --output-file dist/sbom.json $(CLEAN)/python
	$(TOOLS)/pip-licenses --python $(CLEAN)/python

# Versions stay, what pyproject.toml asks for anew is added; UPGRADE=1 takes the newest of everything.
lock:  ## requirements.lock: versions and hashes, both from pip, for this platform
	$(PYTHON) -m venv .release/lock
	.release/lock/bin/python $(INSTALL) 'pip>=25,<27'
	.release/lock/bin/python .ci/lock.py $(if $(UPGRADE),--upgrade)

licences: .venv/dev.stamp .release/tools.stamp  ## a dependency under a licence that pyproject.toml does not allow fails
	$(TOOLS)/pip-licenses --python $(BIN)/python

.release/tools.stamp: pyproject.toml requirements.lock
	$(PYTHON) -m venv .release/tools
	$(call install,.release/tools,tools,$(FOR_RELEASES))
	touch $@

TARGET ?= detector
RUNS ?= -1
fuzz: .venv/dev.stamp  ## TARGET of tests/fuzz/targets.py, RUNS times or until stopped
	$(call install,.venv,fuzz,-e '.[fuzz]')
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run.py $(TARGET) -runs=$(RUNS)
