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

test: $(VENV)/installed
	$(BIN)/python -m pytest -q

$(VENV)/installed: requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	touch $@

clean:
	rm -rf $(VENV) runs
