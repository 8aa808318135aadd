"""Run directories, manifests, processes, interrupts and progress."""
