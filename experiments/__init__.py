"""Command lines: train, evaluate, predict, benchmark."""
