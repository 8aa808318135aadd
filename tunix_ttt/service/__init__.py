"""Training on a Tinker-compatible service instead of local devices."""
