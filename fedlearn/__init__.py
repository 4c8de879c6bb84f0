"""Federated learning whose privacy is true: train one model where the data may not be pooled.

Everything public is named here and in `dir(fedlearn)`; what lies below may change. Nothing
is imported before it is asked for.

Example:
    >>> import fedlearn as fl
    >>> round(fl.epsilon(noise_multiplier=1.0, sample_rate=0.01, steps=1000, delta=1e-5), 2)
    1.83
"""

import importlib as _importlib
import os as _os
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from fedlearn.core.errors import (
        ConfigError,
        DataError,
        FedlearnError,
        PrivacyError,
        PromiseBrokenError,
        ProtocolError,
        StoppedError,
    )
    from fedlearn.mechanisms import ClientPrivacy as Client
    from fedlearn.mechanisms import DistributedPrivacy as Distributed
    from fedlearn.mechanisms import NoPrivacy
    from fedlearn.mechanisms import RecordPrivacy as Record
    from fedlearn.training.dp import ClippedGradients, ClippedSum
    from simulations.api.accounting import epsilon
    from simulations.api.comparison import Sweep, compare
    from simulations.api.distilling import distill
    from simulations.api.generating import generate
    from simulations.api.result import Result, load_run
    from simulations.api.running import audit, simulate
    from simulations.api.statistics import TableOne, statistics
    from simulations.api.study import Study

__version__ = "0.2.0"

__all__ = [
    "Client",
    "ClippedGradients",
    "ClippedSum",
    "ConfigError",
    "DataError",
    "Distributed",
    "FedlearnError",
    "NoPrivacy",
    "PrivacyError",
    "PromiseBrokenError",
    "ProtocolError",
    "Record",
    "Result",
    "StoppedError",
    "Study",
    "Sweep",
    "TableOne",
    "__version__",
    "audit",
    "compare",
    "distill",
    "epsilon",
    "generate",
    "load_run",
    "simulate",
    "statistics",
]

# Flower phones home, looks for updates and installs packages at run time by default,
# and Ray and MLflow report their use. All of that is off unless the user has turned it
# on. Such things have to be said before libraries start, so every package of the project
# imports this one.
SWITCHES = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Unless it is told to repeat itself, MKL adds up a row of a matrix by where the row begins in
    # memory, and a record's gradient then depends on who stands before it. Costs no time.
    "MKL_CBWR": "AUTO",
    # Ray's future default, and its way to say that it has been heard.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
for _name, _value in SWITCHES.items():
    _os.environ.setdefault(_name, _value)

_PLACES = {
    "Client": "fedlearn.mechanisms:ClientPrivacy",
    "ClippedGradients": "fedlearn.training.dp:ClippedGradients",
    "ClippedSum": "fedlearn.training.dp:ClippedSum",
    "Distributed": "fedlearn.mechanisms:DistributedPrivacy",
    "NoPrivacy": "fedlearn.mechanisms:NoPrivacy",
    "Record": "fedlearn.mechanisms:RecordPrivacy",
    "Result": "simulations.api.result:Result",
    "Study": "simulations.api.study:Study",
    "Sweep": "simulations.api.comparison:Sweep",
    "TableOne": "simulations.api.statistics:TableOne",
    "audit": "simulations.api.running:audit",
    "compare": "simulations.api.comparison:compare",
    "distill": "simulations.api.distilling:distill",
    "epsilon": "simulations.api.accounting:epsilon",
    "generate": "simulations.api.generating:generate",
    "load_run": "simulations.api.result:load_run",
    "simulate": "simulations.api.running:simulate",
    "statistics": "simulations.api.statistics:statistics",
} | {name: f"fedlearn.core.errors:{name}" for name in __all__ if name.endswith("Error")}
"""Where the public names are; the types above say the same to editors."""


def __getattr__(name: str) -> _Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, there = _PLACES[name].partition(":")
    if module.startswith("simulations."):
        from fedlearn.core.code import check_packages

        check_packages()
    found = globals()[name] = getattr(_importlib.import_module(module), there)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
