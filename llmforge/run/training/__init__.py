"""Stepping: the training loop, what it averages, and what it does at a boundary."""
