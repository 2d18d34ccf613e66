"""Benchmarks of the lm-evaluation-harness, run on a checkpoint as it is."""
