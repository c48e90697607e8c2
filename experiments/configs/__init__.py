"""Experiment configs: `get_config(preset)` returns a locked ConfigDict."""
