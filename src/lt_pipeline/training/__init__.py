"""One training loop for every method: stages, clock, samplers, precision, ranks, checkpoint and resume."""
