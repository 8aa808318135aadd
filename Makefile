# A virtual environment of the project's own; nothing else is asked of a machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

DEMO := artifacts/training_runs/demo-$(shell date -u +%Y%m%d-%H%M%S)
COLD := configs/sft_cold_start.yaml
GRPO := configs/grpo_tiny.yaml
EVALSET := evalsets/tictactoe_v1.jsonl

.PHONY: demo test test-all lint clean

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

# Train a poor player, improve it by playing, and judge it before and after.
demo: $(READY)
	$(BIN)/python training/train_sft_tunix.py --config $(COLD) --output $(DEMO)/cold
	$(BIN)/python training/train_grpo_tunix.py --config $(GRPO) --model $(DEMO)/cold/checkpoint-final --output $(DEMO)/grpo
	for run in cold grpo; do \
	  $(BIN)/python training/eval_generate.py --model $(DEMO)/$$run/checkpoint-final --config $(COLD) --eval-set $(EVALSET) --output $(DEMO)/$$run/answers.jsonl && \
	  $(BIN)/python training/eval_play.py --model $(DEMO)/$$run/checkpoint-final --config $(COLD) --exhaustive --output $(DEMO)/$$run/games.jsonl || exit; \
	done
	$(BIN)/python training/eval_report.py --before $(DEMO)/cold/answers.jsonl --after $(DEMO)/grpo/answers.jsonl --output $(DEMO)/delta_report.md

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

test: lint
	$(BIN)/python -m pytest

test-all: lint
	$(BIN)/python -m pytest -m ''

clean:
	rm -rf $(VENV) .jax_cache .pytest_cache .ruff_cache .hypothesis
