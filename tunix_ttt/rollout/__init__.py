"""Sampling of whole games in one compiled program."""
