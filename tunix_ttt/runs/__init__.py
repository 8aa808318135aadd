"""Run directories, processes, interrupts and progress."""
