"""What the coordinator runs: cohorts, rounds, aggregation, checkpoints; never raw data."""
