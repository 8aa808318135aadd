"""The game: rules, environment, exact solution, opponents. Knows no text."""
