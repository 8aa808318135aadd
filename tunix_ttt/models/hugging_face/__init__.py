"""Models in the form that transformers saves them in."""
