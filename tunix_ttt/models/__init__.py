"""Models: architectures, adapters, checkpoints, generation."""
