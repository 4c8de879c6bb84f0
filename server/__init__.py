"""What the coordinator runs: cohorts, rounds, aggregation, checkpoints; never raw data."""

import fedlearn as _fedlearn  # noqa: F401  (its switches come before the first import of flwr)
