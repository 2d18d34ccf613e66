"""Components that fail in chosen ways; environment variables say when."""
