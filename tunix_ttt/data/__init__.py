"""Training data: generated games, row formats, batches."""
