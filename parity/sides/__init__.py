"""The two programs that are compared, and how they are run, intercepted and trained."""
