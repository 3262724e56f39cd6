# make setup   a virtual environment in .venv, from requirements.lock; the only step that uses the network. Compiles the
#              loops of the fits as well (half a minute on two cores), so that the first fit need not
# make book    run every chapter and the virtual subjects, build the book: build/site/index.html
#              BIDS="DIR ..." fits the subjects of BIDS data sets as well; REAL=1 fetches the public ones (make data) and fits
#              their people; FAST=1 takes the short settings; J=N runs N at a time
# make notebooks  the chapters as notebooks for Jupyter and papermill, each paired with its text: notebooks/NAME.ipynb
# make data    fetch the public data sets into DATA=build/data, checksummed; FROM=ADDRESS takes a mirror
# make reading write book/reading.csv: how long each page takes to read, and its lines of code
# make badges  write the badges of README.md for the repository that REPOSITORY_URL, CITATION.cff or git's origin names
# make test    lint, types, tests (the slow ones too), WORKERS=2 at a time; .ci/run has those that need a Slurm
# make test-book  build the whole book in its short settings, open every page in a browser
# make lock    write requirements.lock anew from pyproject.toml
# make picture draw the pictures of README.md and of the first page; STUDY=DIR that of a study that has run there
# make clean   remove build/ (not .venv)

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS := ablation,book,data,test
BIDS ?=
# nproc counts no more than OMP_NUM_THREADS says, which tests set to 1 for what runs in a process.
J ?= $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 2)
OUT ?= build
DATA ?= build/data
FROM ?=
REAL ?=
# Expanded when the book is made, with the package installed.
PUBLIC = $(shell $(BIN)/python -c "from aslpinn.data.public.fetch import NAMES; print(*NAMES)")
WORKERS ?= 2
# Chapters and subjects find the environment's own Jupyter kernel, whatever the user has installed elsewhere.
export JUPYTER_PREFER_ENV_PATH := 1

.PHONY: setup book data notebooks reading badges test test-book lock picture clean

setup: $(VENV)/.setup

$(VENV)/.setup: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 found; name one: make setup PYTHON=/path/to/python3" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	$(BIN)/python -m aslpinn_book.compile_loops
	@touch $@

book: setup $(if $(REAL),data)
	$(BIN)/aslpinn study --virtual $(foreach dir,$(if $(REAL),$(PUBLIC:%=$(DATA)/%)) $(BIDS),--bids "$(dir)") --out "$(OUT)" -j $(J) $(if $(FAST),--fast)

data: setup
	$(BIN)/aslpinn fetch --to "$(DATA)" $(if $(FROM),--base-url "$(FROM)")

notebooks: setup
	$(BIN)/python -m aslpinn_book.study.paired

reading: setup
	$(BIN)/python -m aslpinn_book.study.reading

badges: setup
	$(BIN)/python -m aslpinn_book.study.launch_buttons --badges

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slurm and not book" -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=15

test-book: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m book --durations=5 tests/test_book.py

# From a fresh environment, so that nothing tried out by hand gets in. "+cpu" is a build of the same torch version.
lock:
	rm -rf build/lock && mkdir -p build && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet "torch==$$(sed -n 's/^torch==//p' requirements.lock)"
	build/lock/bin/python -m pip install --quiet -e ".[$(EXTRAS)]"
	build/lock/bin/python -m pip freeze --exclude aslpinn --exclude-editable | sed 's/+cpu$$//' > build/requirements.new
	mv build/requirements.new requirements.lock && rm -rf build/lock

picture: setup
	$(BIN)/python book/picture.py $(if $(STUDY),--study "$(STUDY)")

clean:
	rm -rf build
