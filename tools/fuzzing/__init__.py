"""`python -m tools.fuzzing`: damaged checkpoints, which must be read or refused with an error."""
