"""Whether data is like what a model was trained on."""
