"""The example of a plugin package: a tracker, a model and a command."""
