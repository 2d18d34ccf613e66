"""From text to training batches: the token cache, the sample order, windows of tokens.

``tokens`` needs no torch; ``batches`` does.
"""
