"""What a recipe needs before it runs: sizes, arithmetic, and memory by backend and micro-batch."""
