"""Sweeps: trials over a space, kept in a ledger that survives anything, done by workers."""
