"""The contenders of ``train_step.py``: each trains the same shape on the same tokens."""
