# make demo and make test each do all the set-up: they need Python 3.11 with pip and a C compiler.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check fuzz mutants clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     pack the playground, train both networks, show the report (about 6 minutes on 2 cores)"
	@echo "make test     run the tests"
	@echo "make check    lint, format, strict types"
	@echo "make fuzz     read 100,000 mutated blocks under sanitizers (about 15 minutes)"
	@echo "make mutants  break each law on purpose and see its test turn red"
	@echo "make clean    remove the demo's shards and run"

# The environment is ready when this stamp is newer than what it was made from.
$(VENV)/.ready: pyproject.toml constraints.txt $(wildcard wdtrain/store/*.c)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wdtrain needs Python 3.11 or newer; make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.ready
	$(BIN)/python tools/pack-shards playground:count=$(DEMO_COUNT),size=$(DEMO_SIZE),difficulty=0.3 shards/playground --encoding image --compression zstd:9
	$(BIN)/python tools/inspect-shards grid shards/playground --out shards/playground-grid.png --overwrite
	$(BIN)/accelerate launch --config_file accelerate_config.yaml wdtrain/train.py --config recipes/playground.yaml
	$(BIN)/python tools/predict runs/playground --split val-new-new --count 8 --out predictions/playground --overwrite

DEMO_COUNT ?= 20000
DEMO_SIZE ?= 64

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# As the tests do with 2,000: about a quarter of an hour. Another FUZZ_SEED, a million or more away, other blocks.
fuzz: $(VENV)/.ready
	WDTRAIN_FUZZ_BLOCKS=$(FUZZ_BLOCKS) WDTRAIN_FUZZ_SEED=$(FUZZ_SEED) $(BIN)/python -m pytest -s tests/store/test_fuzz.py

FUZZ_BLOCKS ?= 100000
FUZZ_SEED ?= 0

mutants: $(VENV)/.ready
	$(BIN)/python tests/mutants/run.py --end-to-end $(MUTANTS)

clean:
	rm -rf shards/playground shards/playground-grid.png runs/playground predictions/playground
