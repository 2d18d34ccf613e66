"""Reporting: the terminal, the files of a run, and what trackers are sent."""
