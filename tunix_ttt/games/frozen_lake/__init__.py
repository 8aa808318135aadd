"""Frozen Lake, the slippery puzzle of Gymnasium."""
