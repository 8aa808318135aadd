"""Training: the only place that talks to Tunix's trainers."""
