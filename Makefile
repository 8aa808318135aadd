# A virtual environment of the project's own; nothing else is asked of a machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

RUN := artifacts/training_runs/demo-$(shell date -u +%Y%m%d-%H%M%S)
CONFIG := configs/sft_tiny.yaml
EVALSET := evalsets/tictactoe_v1.jsonl

.PHONY: demo test test-all lint clean

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

# Train a tiny model, and judge it before and after.
demo: $(READY)
	$(BIN)/python training/train_sft_tunix.py --config $(CONFIG) --output $(RUN)
	$(BIN)/python training/eval_generate.py --model base --config $(CONFIG) --eval-set $(EVALSET) --output $(RUN)/eval_before.jsonl
	$(BIN)/python training/eval_generate.py --model $(RUN)/checkpoint-final --config $(CONFIG) --eval-set $(EVALSET) --output $(RUN)/eval_after.jsonl
	$(BIN)/python training/eval_report.py --before $(RUN)/eval_before.jsonl --after $(RUN)/eval_after.jsonl --output $(RUN)/delta_report.md

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
