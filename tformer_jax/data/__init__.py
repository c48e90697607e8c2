"""Data without JAX: batch i is a pure function of (seed, i)."""
