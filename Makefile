# make demo   set up, train a model on handwritten digits, evaluate both directions, draw its curves
# make test   set up, run the tests          make check   ruff and mypy
# make bench  the benchmarks                 make clean   remove what make and the tests made (not runs/ or data/)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := --model models/digits_ccal_cont.py --data digits --tag demo

.PHONY: demo test check bench clean

demo: $(READY)
	$(BIN)/python run_train.py $(DEMO) --overwrite
	$(BIN)/python run_eval.py $(DEMO) --linear_cca
	$(BIN)/python run_eval.py $(DEMO) --linear_cca --V2_to_V1
	$(BIN)/python plot_log.py runs/digits_ccal_cont-demo --key "mrr_%s" --high_is_better \
		--out runs/digits_ccal_cont-demo/mrr.png

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks.speed

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Everything is installed once, in the pinned versions; a change of setup.py or of the pins installs again.
$(READY): setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("xmodal needs Python 3.10 or later" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,audio,images,search,milvus,demo,tune,tensorboard]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps tinysoundfont
	@touch $@
