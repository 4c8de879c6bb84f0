"""DP-SGD gradients: exact sums of clipped per-sample gradients, for little more than plain SGD."""

from fedlearn.training.dp.clipping import Clipping
from fedlearn.training.dp.engine import ClippedGradients, ClippedSum
from fedlearn.training.dp.plan import refusals
from fedlearn.training.dp.tables import SampleParameter

__all__ = ["ClippedGradients", "ClippedSum", "Clipping", "SampleParameter", "refusals"]
