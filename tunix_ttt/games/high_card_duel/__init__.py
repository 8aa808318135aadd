"""High Card Duel, the smallest card game of UNGAR."""
