"""Whole games of a language model, sampled as one compiled program."""
