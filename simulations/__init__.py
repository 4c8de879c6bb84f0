"""Both sides on one machine, for studies: engines, sweeps, attacks, reports."""
