"""Tic-tac-toe: rules, exact solution, opponents and text formats."""
