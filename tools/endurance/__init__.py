"""Long runs that tests have no time for: killed and concurrent writers, and an hour of training."""
