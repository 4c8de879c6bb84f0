"""Where the course of a run is shown besides its folder: settings only (`server.tracking` does it).

Off by default. What is tracked is what `result.json` releases, nothing more; it
stays on this machine unless a URI says otherwise.
"""

from __future__ import annotations

from typing import Literal

from fedlearn.core.settings import config


@config
class NoTracking:
    """The run's folder is all there is."""

    kind: Literal["none"] = "none"


@config
class MlflowTracking:
    """An MLflow store; `uri` is MLflow's tracking URI, such as that of a server.

    Empty: the file `mlflow.db` (SQLite) beside the run's folder, so that the runs of
    a comparison share one. MLFLOW_TRACKING_URI is not looked at: what may leave the
    machine is said in the config.
    """

    kind: Literal["mlflow"] = "mlflow"
    uri: str = ""


@config
class TensorboardTracking:
    """Event files for TensorBoard in `folder`; empty: `tensorboard` in the run's folder."""

    kind: Literal["tensorboard"] = "tensorboard"
    folder: str = ""


Tracking = NoTracking | MlflowTracking | TensorboardTracking
"""The union of trackers, told apart by `kind`."""
