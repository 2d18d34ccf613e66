"""Metric components: how well generated answers or predicted labels agree with the data's."""
