# make demo: install, train on moving digits, generate, score.   make test: install, run all tests.
# make clean: remove what was installed and built.   make clean-runs: remove the trained models in runs/.
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/digits
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
# The Python that is wanted, with what makes an environment.
FITS := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

# An environment whose Python was removed or replaced is installed anew.
ifneq ($(wildcard $(VENV)/installed),)
ifneq ($(shell { $(BIN)/python -c "print('runs')"; } 2> /dev/null),runs)
$(shell rm -f $(VENV)/installed)
endif
endif

.PHONY: demo test clean clean-runs $(VENV)/libtpu

demo: $(VENV)/installed
	$(BIN)/python -m launch.train --config configs/digits.py --workdir $(RUN)
	$(BIN)/python -m launch.evaluate --benchmark digits --checkpoint $(RUN) --output $(RUN)/score
	$(BIN)/python -m launch.evaluate --benchmark digits --checkpoint $(RUN) --output $(RUN)/score_free --captions free

test: $(VENV)/installed $(VENV)/libtpu
	TPU_LIBRARY_PATH=$(abspath $(VENV)/libtpu/libtpu/libtpu.so) $(BIN)/python -m pytest -q --numprocesses=2 --dist=loadfile --durations=20

# The mark comes last: what was half installed, or by another Python, is removed and installed anew.
$(VENV)/installed: locks/base.txt
	@$(PYTHON) -c "$(FITS)" 2> /dev/null || { echo "error: Python 3.11 or later with its venv module is needed, and \
	$(PYTHON) is not that: install it (on Debian and Ubuntu: python3.11-venv), or name one, make PYTHON=/usr/bin/python3.11" \
	>&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) -r locks/base.txt
	touch $@

# The compiler for TPUs, for tests that compile for them. It stays out of the environment, where JAX would look for TPUs
# with it, and complain that there are none, at every start.
$(VENV)/libtpu: $(VENV)/libtpu/installed

$(VENV)/libtpu/installed: $(VENV)/installed locks/compile.txt
	rm -rf $(VENV)/libtpu
	$(PIP) --no-deps --target $(VENV)/libtpu -r locks/compile.txt
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info

clean-runs:
	rm -rf runs
