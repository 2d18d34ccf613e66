"""Tokenizers: ``bpe`` trained on the data, ``bytes``, and ``hf`` made by others."""
