"""Job files for clusters: what starts ``forge train`` there, and again when it asks for it."""
