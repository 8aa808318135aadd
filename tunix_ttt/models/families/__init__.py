"""Model architectures, an object for each family."""
