"""Components of the kind ``adapter``."""
