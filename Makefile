# Two commands: `make run` starts the daemon, `make test` runs the tests. Nothing else is needed.
# `make sandbox` starts an exchange with play money that speaks as Kraken does. It takes SPEED=60 (times
# as lively), MARKET=synthetic, SANDBOX_PORT=8090, DB=FILE (keeps the account), FAULTS=1 (opens a door
# for faults, deposits and the market's status: docs/OPERATION.md).
# `make backtest DATA=FILE` and `make sweep DATA=FILE` trade on recorded data (docs/BACKTESTING.md); what
# else they should be told goes into ARGS, as ARGS="--trials 200".
# `make sim` runs the whole daemon through 200 simulated hours of faults, `make sim-long SEEDS=5000`
# through more, every tenth seed a day long; results add up in data/storm.jsonl (docs/STORM.md).
# `make soak` runs the real processes over spoilt lines for 24 minutes, ARGS="--minutes 3" for less.
# `make mutation` breaks the money modules in many small ways and says how many of these the tests notice;
# SAMPLE=100 takes so many of each module, SEED=2 others (docs/STORM.md).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
# Compiled once, not at each start of a program or test process.
unexport PYTHONDONTWRITEBYTECODE
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# Some tests wait for a process more than they compute: one more than there are cores.
PARALLEL := -n $(shell echo $$((1 + $$(nproc)))) --dist worksteal
MARKET ?= synthetic
SPEED ?= 60
SANDBOX_PORT ?= 8090
SEEDS ?= 5000
SEED ?= 1

.PHONY: run sandbox backtest sweep sim sim-long soak test test-all test-long mutation check bench clean

run: $(VENV)/.run
	@$(BIN)/python bot.py

sandbox: $(VENV)/.run
	@$(BIN)/python -m sim.sandbox --market "$(MARKET)" --speed $(SPEED) --port $(SANDBOX_PORT) \
	  $(if $(DB),--db "$(DB)") $(if $(FAULTS),--faults)

backtest sweep: $(VENV)/.research
	@$(if $(DATA),,echo "DATA=FILE is missing: recorded candles, .csv, .csv.gz or .parquet"; exit 2;) \
	  $(BIN)/python -m sim.$@ "$(DATA)" $(ARGS)

sim: $(VENV)/.run
	@$(BIN)/python -m sim.faults --seeds 200 --no-days

sim-long: $(VENV)/.run
	@mkdir -p data
	@$(BIN)/python -m sim.faults --seeds $(SEEDS) --out data/storm.jsonl

soak: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.soak $(ARGS)

test: $(VENV)/.dev
	@$(PYTEST) $(PARALLEL) -m "not slow and not long"

# AFTER_TEST=1 leaves out what `make test` has just run.
test-all: $(VENV)/.dev
	@$(PYTEST) $(PARALLEL) -m "$(if $(AFTER_TEST),slow and )not long"

test-long: $(VENV)/.dev
	@$(PYTEST) -m "long" -s

mutation: $(VENV)/.dev
	@nice $(BIN)/python -m tools.mutation $(if $(SAMPLE),--sample $(SAMPLE) --seed $(SEED))

check: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.run

clean:
	rm -rf $(VENV) mutants .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "Python 3.11 is needed (Debian: apt-get install python3.11 python3.11-venv)"; exit 1; }
	@"$(PYTHON)" -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "venv is missing: apt-get install python3.11-venv"; exit 1; }

$(VENV)/.run: requirements.txt | $(BIN)/python
	@echo "installing the packages of requirements.txt (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.research: requirements.txt requirements-research.txt | $(BIN)/python
	@echo "installing the packages of requirements-research.txt (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-research.txt
	@touch $@ $(VENV)/.run

$(VENV)/.dev: requirements.txt requirements-research.txt requirements-dev.txt | $(BIN)/python
	@echo "installing the packages of requirements-dev.txt (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/.run $(VENV)/.research
