"""A run's JSON as tables, goals and plots, for the terminal, README.md and docs/."""
