"""Objectives: what a model learns of its data."""
