"""Pure functions for rewards, advantages and losses."""
