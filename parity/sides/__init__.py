"""The two programs under comparison, and how they are run, opened and trained."""
