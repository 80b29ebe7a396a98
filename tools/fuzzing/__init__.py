"""`python -m tools.fuzzing`: damaged checkpoints, each to be read or refused in words."""
