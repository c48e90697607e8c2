"""Sweeps: what is tried, many runs as one program, and search."""
