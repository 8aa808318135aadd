# A virtual environment of the project's own; nothing else is asked of a machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What runs need is installed, and what tests need.
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready

# Of all packages, the oldest or the newest that pyproject.toml allows.
VERSIONS ?= newest
OLDEST := $(VENV)/oldest.txt
INSTALL = $(BIN)/python -m pip install --quiet $(if $(filter oldest,$(VERSIONS)),--constraint $(OLDEST))

# Tests are run by this many processes.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

RUN := artifacts/training_runs/demo-$(shell date -u +%Y%m%d-%H%M%S)
COLD_START := configs/sft_cold_start.yaml
GRPO := configs/grpo_tiny.yaml
EVALSET := evalsets/tictactoe_v1.jsonl

# Prints the output of a command only if it fails.
quiet = @output=$$({ $(1); } 2>&1) || { echo "$$output"; exit 1; }

.PHONY: demo test test-all bench lint types docs clean

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PYTHON) tests/oldest.py > $(OLDEST)
	$(INSTALL) --upgrade pip
	$(INSTALL) --editable .
	touch $@

$(READY): $(INSTALLED)
	$(INSTALL) --editable '.[test]'
	touch $@

# Train a poor player, improve it by playing, and judge it before and after.
demo: BEFORE := $(RUN)-cold/checkpoint-final
demo: AFTER := $(RUN)/checkpoint-final
demo: $(INSTALLED)
	$(BIN)/python training/train_sft_tunix.py --config $(COLD_START) --output $(RUN)-cold
	$(BIN)/python training/train_grpo_tunix.py --config $(GRPO) --model $(BEFORE) --output $(RUN)
	$(BIN)/python training/eval_generate.py --model $(BEFORE) --eval-set $(EVALSET) --output $(RUN)/eval_before.jsonl
	$(BIN)/python training/eval_generate.py --model $(AFTER) --eval-set $(EVALSET) --output $(RUN)/eval_after.jsonl
	$(BIN)/python training/eval_report.py --run $(RUN) --games-before $(RUN)-cold/games.jsonl --before $(RUN)/eval_before.jsonl --after $(RUN)/eval_after.jsonl --output $(RUN)/delta_report.md

# What became slower or larger than in the baseline, and exit code 2 if anything did.
bench: $(READY)
	$(INSTALL) --editable '.[bench]'
	$(BIN)/python benchmarks/all.py --baseline benchmarks/results/baseline_cpu.json

lint: $(READY)
	$(call quiet,$(BIN)/ruff check && $(BIN)/ruff format --check)

types: $(READY)
	$(call quiet,$(BIN)/pyright)

# Read them at docs/_build/index.html; what Sphinx warns of is an error.
docs: $(READY)
	$(call quiet,$(BIN)/sphinx-build -q -W --keep-going docs docs/_build)

# The other checks run beside the tests; what they found is printed at the end.
# Make would run a recipe that names it, even with --dry-run.
CHECK := $(MAKE) --jobs --keep-going lint types docs
LOG := $(VENV)/checks.log
test-all: PYTEST += -m ''
test test-all: $(READY)
	@$(CHECK) > $(LOG) 2>&1 & checks=$$!; \
	$(PYTEST); tests=$$?; \
	wait $$checks || { cat $(LOG); exit 1; }; exit $$tests

clean:
	rm -rf $(VENV) docs/_build .jax_cache .pytest_cache .ruff_cache .hypothesis
