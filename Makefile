# make demo: install, train on moving digits, generate, score.   make test: install, run all tests.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/digits

.PHONY: demo test clean

demo: $(VENV)/installed
	$(BIN)/python -m launch.train --config configs/digits.py --workdir $(RUN)
	$(BIN)/python -m launch.evaluate --benchmark digits --checkpoint $(RUN) --output $(RUN)/score
	$(BIN)/python -m launch.evaluate --benchmark digits --checkpoint $(RUN) --output $(RUN)/score_free --captions free

test: $(VENV)/installed $(VENV)/libtpu
	TPU_LIBRARY_PATH=$(abspath $(VENV)/libtpu/libtpu/libtpu.so) $(BIN)/python -m pytest -q --numprocesses=2 --dist=loadfile

$(VENV)/installed: requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	touch $@

# The compiler for TPUs, for tests that compile for them. It stays out of the environment, where JAX would look for TPUs
# with it, and complain that there are none, at every start.
$(VENV)/libtpu: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $@ libtpu==0.0.52
	touch $@

clean:
	rm -rf $(VENV) runs
