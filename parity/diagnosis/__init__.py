"""After a failed check: locates the first faulty stage and names what is wrong there."""
