"""Components of the kind ``model``."""
