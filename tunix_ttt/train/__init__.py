"""Training runs, built on Tunix's trainers."""
