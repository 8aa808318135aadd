"""Post-training of language models on tic-tac-toe with JAX and Tunix."""

__version__ = "0.1.0"
