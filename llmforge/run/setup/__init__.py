"""Setting a run up: its plan made real, from data and components to the point it resumes from."""
