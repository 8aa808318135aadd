"""Evaluation: evalsets, answers, statistics, report."""
