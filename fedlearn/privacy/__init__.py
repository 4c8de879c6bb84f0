"""The mathematics of differential privacy: events, accountants, noise. No config, no model."""

from fedlearn.privacy.events import Event, Unit
from fedlearn.privacy.noise import NoiseSource, SeededNoise, SystemNoise

__all__ = ["Event", "NoiseSource", "SeededNoise", "SystemNoise", "Unit"]
