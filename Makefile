# A virtual environment of the project's own; nothing else is asked of a machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Tests are run by this many processes.
WORKERS ?= 2
PARALLEL := --numprocesses $(WORKERS) --dist loadfile

RUN := artifacts/training_runs/demo-$(shell date -u +%Y%m%d-%H%M%S)
COLD_START := configs/sft_cold_start.yaml
GRPO := configs/grpo_tiny.yaml
EVALSET := evalsets/tictactoe_v1.jsonl

.PHONY: demo test test-all lint docs clean

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

# Train a poor player, improve it by playing, and judge it before and after.
demo: BEFORE := $(RUN)-cold/checkpoint-final
demo: AFTER := $(RUN)/checkpoint-final
demo: $(READY)
	$(BIN)/python training/train_sft_tunix.py --config $(COLD_START) --output $(RUN)-cold
	$(BIN)/python training/train_grpo_tunix.py --config $(GRPO) --model $(BEFORE) --output $(RUN)
	$(BIN)/python training/eval_generate.py --model $(BEFORE) --eval-set $(EVALSET) --output $(RUN)/eval_before.jsonl
	$(BIN)/python training/eval_generate.py --model $(AFTER) --eval-set $(EVALSET) --output $(RUN)/eval_after.jsonl
	$(BIN)/python training/eval_report.py --run $(RUN) --games-before $(RUN)-cold/games.jsonl --before $(RUN)/eval_before.jsonl --after $(RUN)/eval_after.jsonl --output $(RUN)/delta_report.md

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

# Read them at docs/_build/index.html; what Sphinx warns of is an error.
docs: $(READY)
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build

test: lint docs
	$(BIN)/python -m pytest $(PARALLEL)

test-all: lint docs
	$(BIN)/python -m pytest $(PARALLEL) -m ''

clean:
	rm -rf $(VENV) docs/_build .jax_cache .pytest_cache .ruff_cache .hypothesis
