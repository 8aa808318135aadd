"""Chat templates, tokenizers and answer grammars. Knows no model."""
