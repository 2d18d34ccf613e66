"""Built-in sweepers."""
