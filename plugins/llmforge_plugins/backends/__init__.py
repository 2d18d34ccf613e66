"""Components of the kind ``backend``."""
