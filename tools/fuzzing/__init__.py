"""`python -m tools.fuzzing`: damaged checkpoints, each of which must be read or refused in words."""
