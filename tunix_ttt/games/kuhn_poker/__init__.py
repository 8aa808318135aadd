"""Kuhn poker (Kuhn, 1950): one card and one bet."""
