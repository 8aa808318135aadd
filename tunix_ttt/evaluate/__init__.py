"""Evaluation of policies by games and by evalsets."""
