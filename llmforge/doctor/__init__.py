"""Looking at a machine before anything is trained on it: what is there, what is amiss, the remedy.

One module per group of checks; :mod:`llmforge.doctor.examination` puts them in order.
"""
