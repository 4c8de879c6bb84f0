"""What both sides of a federation must agree on: maths, protocols, formats and configuration.

This package has no network, no clock and no global random generator; what knows Flower
is `fedlearn.flower`, `fedlearn.flower.envelopes` and `fedlearn.flower.private`, and nothing else.
"""

import os as _os

__version__ = "0.1.0"

# Flower phones home, looks for updates and installs packages at run time by default,
# and Ray and MLflow report their use. All of that is off unless the user has turned it
# on. It has to be said before they are imported, so every package of the project imports this one.
SWITCHES = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Ray's future default, and its way to say that it has been heard.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
for _name, _value in SWITCHES.items():
    _os.environ.setdefault(_name, _value)
