"""Showing the course of a run in MLflow or TensorBoard while it lasts, for those who ask for it.

A tracker is a listener like any other: it is told what is on disk already, so it
learns nothing that the run does not release. One that cannot be opened ends the
run before its first round; one that fails later is dropped with a line in the log,
for a run may have spent privacy that nobody gets back.
"""

from server.tracking.tracked import check_tracking, tracked

__all__ = ["check_tracking", "tracked"]
