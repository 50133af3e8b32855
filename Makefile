# make demo: install, show a clip of the trained digits that come along, train one's own, generate, score.
# make test: install, run the tests that are not slow.   make test-all: all tests.   make lint: check the code's style.
# make docs: build the docs site into build/site.   make lock: pin new versions in constraints.txt and requirements.txt.
# make clean: remove what was installed and built.   make clean-runs: remove the trained models in runs/.
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/demo
FIRST := runs/first
# Exact versions; each file that is downloaded must have one of the hashes in constraints.txt.
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --build-constraints constraints.txt
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links pyproject.toml
# The Python that is wanted, with what makes an environment.
FITS := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
# A worker that dies is not replaced, since whoever waits for the tests that it held would wait for ever. Files keep their
# order: by their numbers of tests the slowest would come last, and one worker would wait for the other.
PYTEST := $(BIN)/python -m pytest -q --numprocesses=2 --dist=loadfile --no-loadscope-reorder --max-worker-restart=0 \
	--durations=20
# Tests in which arrays that functions take and return are checked against their annotations.
TYPED_TESTS := tests/models tests/diffusion tests/sampling
TYPED := nova_jax.models,nova_jax.diffusion,nova_jax.sampling,nova_jax.autoencoders,array_types.check

# An environment whose Python was removed or replaced is installed anew.
ifneq ($(wildcard $(VENV)/installed),)
ifneq ($(shell { $(BIN)/python -c "print('runs')"; } 2> /dev/null),runs)
$(shell rm -f $(VENV)/installed*)
endif
endif

.PHONY: demo test test-all test-types lint docs lock browser clean clean-runs $(VENV)/libtpu

# Where glibc may ask for huge pages, training takes 7 to 17 % more clips a second.
demo: export GLIBC_TUNABLES := glibc.malloc.hugetlb=1
demo: $(VENV)/installed
	$(BIN)/python -m launch.sample --checkpoint digits --prompt "the digit seven moves left" --formats gif,sheet \
	  --output $(FIRST)
	@echo "watch $$(ls $(FIRST)/000*.gif), or see $(FIRST)/sheet.png; what follows trains a model like it"
	$(BIN)/python -m launch.train --config configs/demo.py --workdir $(RUN)
	$(BIN)/python -m launch.evaluate --benchmark digits --checkpoint $(RUN) --output $(RUN)/score
	$(BIN)/python -m launch.evaluate --benchmark digits --checkpoint $(RUN) --output $(RUN)/score_free --captions free

test: $(VENV)/installed-test
	$(PYTEST) -m "not slow"

test-all: $(VENV)/installed-dev $(VENV)/libtpu browser
	TPU_LIBRARY_PATH=$(abspath $(VENV)/libtpu/libtpu/libtpu.so) $(PYTEST) $(TYPED_TESTS:%=--ignore=%)
	TPU_LIBRARY_PATH=$(abspath $(VENV)/libtpu/libtpu/libtpu.so) $(PYTEST) --jaxtyping-packages=$(TYPED) $(TYPED_TESTS)

test-types: $(VENV)/installed-test
	$(PYTEST) --jaxtyping-packages=$(TYPED) $(TYPED_TESTS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ty check --python $(VENV) --error-on-warning --output-format concise

docs: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

lock: $(VENV)/installed-dev
	$(BIN)/$(LOCK) --all-extras --output-file constraints.txt
	$(BIN)/$(LOCK) --constraints constraints.txt --output-file requirements.txt

# The mark comes last: what was half installed, or by another Python, is removed and installed anew. uv has its version
# and hashes from constraints.txt too.
$(VENV)/installed: constraints.txt pyproject.toml
	@$(PYTHON) -c "$(FITS)" 2> /dev/null || { echo "error: Python 3.11 or later with its venv module is needed, and \
	$(PYTHON) is not that: install it (on Debian and Ubuntu: python3.11-venv), or name one, make PYTHON=/usr/bin/python3.11" \
	>&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	sed -n '/^uv==/,/^    #/p' constraints.txt > $(VENV)/uv.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r $(VENV)/uv.txt
	$(UV) --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(UV) --editable .[test]
	touch $@

$(VENV)/installed-dev: $(VENV)/installed-test
	$(UV) --editable .[dev]
	touch $@

# The compiler for TPUs, for tests that compile for them. It stays out of the environment, where JAX would look for TPUs
# with it, and complain that there are none, at every start.
$(VENV)/libtpu: $(VENV)/libtpu/installed

$(VENV)/libtpu/installed: $(VENV)/installed
	rm -rf $(VENV)/libtpu
	$(UV) --no-deps --target $(VENV)/libtpu libtpu
	touch $@

# Chromium, for the test of the demo's page, where Debian's package can be installed.
browser:
	@command -v chromium > /dev/null || command -v google-chrome > /dev/null || \
	{ test "$$(id -u)" = 0 && apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -qy install chromium; } || \
	echo "note: there is no Chromium, so the test of the demo's page is skipped"

clean:
	rm -rf $(VENV) build dist *.egg-info

clean-runs:
	rm -rf runs
