"""llmforge's own components, listed in the same entry-point groups as everyone else's."""
