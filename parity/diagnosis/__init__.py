"""After a failed check: which stage is wrong of itself, and what is wrong there."""
