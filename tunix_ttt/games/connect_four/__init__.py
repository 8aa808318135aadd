"""Connect Four: pgx's rules and its text."""
