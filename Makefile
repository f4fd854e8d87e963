# make demo      set up, train a model on handwritten digits, evaluate both directions, draw its curves
# make test      set up, run the tests          make check     ruff, mypy, and the documentation built strictly
# make docs      the documentation: site/       make coverage  the tests again, with the branches that they take
# make release   wheel and sdist in dist/, installed and tried in clean environments
# make bench     the benchmarks                 make clean     remove what make and the tests made (not runs/ or data/)
PYTHON ?= python3
JOBS ?= 2
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := --model models/digits_ccal_cont.py --data digits --tag demo

.PHONY: demo test check docs coverage release bench clean

demo: $(READY)
	$(BIN)/python run_train.py $(DEMO) --overwrite
	$(BIN)/python run_eval.py $(DEMO) --linear_cca
	$(BIN)/python run_eval.py $(DEMO) --linear_cca --V2_to_V1
	$(BIN)/python plot_log.py runs/digits_ccal_cont-demo --key "mrr_%s" --high_is_better \
		--out runs/digits_ccal_cont-demo/mrr.png

# A thread for each of JOBS processes: small problems are slower with more.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

check: $(READY) docs
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

coverage: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --cov --cov-report=
	$(BIN)/python -m coverage json --quiet -o .coverage.json
	$(BIN)/python .ci/coverage .coverage.json

release: $(READY)
	$(BIN)/python .ci/release

bench: $(READY)
	$(BIN)/python -m benchmarks.speed

clean:
	rm -rf $(VENV) build dist site .coverage* *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Everything is installed once, in the pinned versions; a change of setup.py or of the pins installs again.
$(READY): setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("xmodal needs Python 3.10 or later" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,audio,images,search,milvus,demo,tune,tensorboard,completion,docs]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps tinysoundfont
	@touch $@
