"""Rewards, advantages and losses: pure functions."""
