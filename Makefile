# Everything that a fresh machine needs is installed by these targets into .venv; nothing else has to be installed by hand.
#   make demo    three pictures of three example subjects, in demo/
#   make figures the same pictures and more, for the README and docs/
#   make test    the test suite
#   make bench   what every way of running costs, as ratios; takes an hour or more on two cores
#   make check   format, lint, types, docstrings
#   make fix     what of that can be repaired automatically
#   make wheel-test   a picture made by the wheel, installed where there is no source tree

PYTHON ?= python3
VENV ?= .venv
# The version of torch that is installed first, and where from: make demo TORCH=torch TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH ?= torch==2.13.0
TORCH_INDEX ?=

BIN := $(VENV)/bin
EXAMPLES := examples
CODE := src tests benchmarks .ci

.PHONY: demo figures test bench check fix wheel-test clean

demo: $(VENV)/.ready
	$(BIN)/python -m realcustom.apps.demo $(EXAMPLES) demo

figures: $(VENV)/.ready
	$(BIN)/python -m realcustom.apps.demo $(EXAMPLES) docs/figures
	mkdir -p demo
	$(BIN)/realcustom sweep $(EXAMPLES)/rocket.png "a rocket in the desert" --word rocket --seed 7 --final-mask-scope 1 --x mask-scope 0.1 0.25 0.4 0.7 --output demo/scope --overwrite
	cp demo/scope/grid.png docs/figures/scope.png
	rm -rf demo/gallery
	$(BIN)/realcustom batch $(EXAMPLES)/gallery.csv --output demo/gallery
	cp demo/gallery/contact-sheet.png docs/figures/gallery.png
	$(BIN)/python benchmarks/narrowing.py --output docs/figures/narrowing.png

test: $(VENV)/.ready
	$(BIN)/python -m pytest

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/speed.py

check: $(VENV)/.ready
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy

fix: $(VENV)/.ready
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

wheel-test: $(VENV)/.ready
	$(BIN)/python .ci/wheel_test.py $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX)) --torch "$(TORCH)"

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "realcustom needs Python 3.11 or newer; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "this Python has no venv module; install it first, on Debian and Ubuntu with: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) demo
