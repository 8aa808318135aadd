"""Chat templates, tokenizers and answer grammars."""
