"""Both sides on one machine, for studies: engines, sweeps, attacks, reports."""

import fedlearn as _fedlearn  # noqa: F401  (its switches come before the first import of flwr)
