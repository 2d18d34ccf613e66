"""Proving on a recipe that killed runs resume exactly: train it twice, kill it once, compare."""
