# Every target makes the virtual environment first when there is none, or when a pyproject.toml has changed.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PROJECTS := pyproject.toml sdk/pyproject.toml plugins/aic/pyproject.toml plugins/aimet/pyproject.toml plugins/cpu/pyproject.toml plugins/htp/pyproject.toml plugins/qairt/pyproject.toml plugins/qnn/pyproject.toml plugins/torch/pyproject.toml

.PHONY: help setup demo test test-all check format bench docs clean

help:
	@echo "make demo      set up, then quantize a small network and run it on two backends"
	@echo "make test      set up, then run the tests (under 5 minutes)"
	@echo "make test-all  the slow tests too"
	@echo "make check     ruff, mypy --strict, import-linter"
	@echo "make bench     the benchmarks that the docs quote (ZOO=folder with the pretrained models)"
	@echo "make docs      build the documentation into site/"

$(STAMP): $(PROJECTS)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -e "sdk[ort]" -e plugins/aic -e plugins/aimet -e plugins/cpu -e plugins/htp -e plugins/qairt -e plugins/qnn -e plugins/torch --group dev
	touch $@

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/npukit demo

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" -n 2

test-all: $(STAMP)
	$(BIN)/python -m pytest -n 2

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ZOO ?= ../shared/zoo
bench: $(STAMP)
	$(BIN)/python bench/accuracy.py --zoo $(ZOO)
	$(BIN)/python bench/calibration.py --zoo $(ZOO)
	$(BIN)/python bench/speed.py --zoo $(ZOO)
	$(BIN)/python bench/decoder.py
	$(BIN)/python bench/roofline.py

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --group docs
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv site .pytest_cache .mypy_cache .ruff_cache .hypothesis
