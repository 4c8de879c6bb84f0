"""What both sides of a federation must agree on: maths, protocols, formats and configuration.

This package has no network, no clock and no global random generator; the one
file that knows Flower is `fedlearn.flower`.
"""

__version__ = "0.1.0"
