"""Places a run is mirrored to."""
