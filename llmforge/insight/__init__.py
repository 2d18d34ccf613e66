"""Looking at runs: summaries, comparison, metrics, curves."""
