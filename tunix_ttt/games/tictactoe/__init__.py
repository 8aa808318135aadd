"""Tic-tac-toe: rules, exact solution, opponents and texts."""
