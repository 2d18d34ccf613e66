"""Running a recipe: the plan, the parts, the step loop, and what a start leaves behind."""
