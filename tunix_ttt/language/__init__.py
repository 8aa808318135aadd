"""Text: prompts, answers, chat template, tokenizers. Knows no model."""
