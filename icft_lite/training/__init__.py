"""Training: prepare a run, plan its stages, train, save checkpoints, write the report."""
