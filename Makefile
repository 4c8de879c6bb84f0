# fedlearn: `make help` lists the targets. Needs Python 3.11 or newer and pip, nothing else.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
OUT    ?= runs/heart
# Rooms of fedlearn/ that `make mutate` changes, one at a time with ROOM=...; [tool.mutmut] in pyproject.toml.
MUTATED := crypto mechanisms privacy secagg training

.PHONY: run test check fast style format bench docs mutate help clean
.DEFAULT_GOAL := help

# What Python compiles is kept, whatever the shell says: every program that a test starts compiles
# all of it otherwise.
unexport PYTHONDONTWRITEBYTECODE

run: $(STAMP)-run  ## Train one model across four hospitals (the main job); OUT=folder
	@$(BIN)/fedlearn simulate experiment=medical_heart out=$(call fresh,$(OUT))
	@echo
	@echo "next, with records of your own:"
	@echo "  . $(BIN)/activate                      # once in every shell: then the command is there"
	@echo "  fedlearn data check my.csv                # what is understood of it, and what is wrong"
	@echo "  fedlearn new my-study --data my.csv       # a study file to read, and the command that runs it"

test: $(STAMP)-test  ## Run the whole test suite
	@$(BIN)/python -m pytest -n auto --dist loadfile

check: $(STAMP)-test  ## Developers' fast gate: style, types, layers, and beside them fast tests of fewer examples
	@$(MAKE) --no-print-directory -j 2 style fast

fast: $(STAMP)-test
	@$(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile

style: $(STAMP)-test  ## Style, types and layers alone
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(STAMP)-test  ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP)-test  ## Measure: every table of docs/performance.md (an hour); JSON in runs/benchmarks
	@$(BIN)/python -m benchmarks

docs: $(STAMP)-test  ## Build the documentation with the Python reference into site/
	@$(BIN)/sphinx-build -q -W --keep-going -b html docs site && echo site/index.html

mutate: $(STAMP)-test  ## Which changes of the code does no test notice? (ROOM=crypto: an hour; all: days; docs/mutation.md)
	@$(BIN)/pip install -q -e '.[mutate]'
	@PYTEST_ADDOPTS="$(if $(ROOM),$(patsubst %,--deselect=tests/fedlearn/%,$(filter-out $(ROOM),$(MUTATED))))" \
		$(BIN)/mutmut run $(if $(WHAT),'$(WHAT)',$(if $(ROOM),'fedlearn.$(ROOM).*')) > mutants.log
	@$(BIN)/mutmut results | awk '!/: not checked$$/'

clean:  ## Remove the virtual environment and caches
	@if [ -L $(VENV) ]; then rm -rf "$$(readlink $(VENV))"; fi
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info build site mutants mutants.log

help:  ## List the targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A folder that holds a run is never overwritten: take heart-2, heart-3, ... instead.
fresh = $(shell n=1; d=$(1); while [ -e "$$d" ]; do n=$$((n+1)); d=$(1)-$$n; done; echo "$$d")

# Flower's SuperLink looks for its tables in folders whose names it joins by blanks, so that an
# environment whose path has one starts, and answers nothing.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedlearn needs Python 3.11 or newer")'
	@case "$$PWD" in *[[:space:]]*) \
		place="$${XDG_CACHE_HOME:-$$HOME/.cache}/fedlearn/venv-$$(printf %s "$$PWD" | cksum | cut -d' ' -f1)"; \
		echo "this folder has a blank in its name, which flwr run cannot take: $(VENV) is a link to $$place"; \
		$(PYTHON) -m venv "$$place" && ln -sfn "$$place" $(VENV);; \
	*) $(PYTHON) -m venv $(VENV);; esac

$(STAMP)-run: pyproject.toml | $(VENV)/bin/python
	@echo "installing fedlearn into $(VENV) (once: two to ten minutes, most of it the download of PyTorch)"
	@$(BIN)/pip install -q -e . && touch $@

$(STAMP)-test: pyproject.toml | $(VENV)/bin/python
	@echo "installing fedlearn and its test tools into $(VENV) (once: three to fifteen minutes, most of it the download of PyTorch)"
	@$(BIN)/pip install -q -e '.[test]' && touch $@ $(STAMP)-run
