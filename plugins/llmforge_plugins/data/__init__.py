"""Data: the WikiText corpora with a bundled sample, and text files of any kind."""
