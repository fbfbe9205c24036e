"""What is faster and not needed to understand: compiled passes, CUDA graphs, rows of a step."""
