"""The commands of ``forge runs``, a module for each few that belong together."""
