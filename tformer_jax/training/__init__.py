"""Training: the step, the optimisers, checkpoints, metrics, run directories and the loop."""
