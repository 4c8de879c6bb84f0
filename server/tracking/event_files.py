"""A run as event files, which TensorBoard shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


class TensorboardTracker:
    """One run; a resumed run adds a file, and TensorBoard joins them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter

    def begin(self, settings: Mapping[str, str]) -> None:
        """Open a file and note the settings as a table."""
        self._writer = SummaryWriter(str(self._folder))
        rows = "\n".join(f"| `{key}` | `{value}` |" for key, value in settings.items())
        self._writer.add_text("settings", f"| key | value |\n|---|---|\n{rows}")

    def measure(self, values: Mapping[str, float], step: int) -> None:
        """Add scalars, and let TensorBoard see them now."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def end(self, finished: bool) -> None:
        """Close the file."""
        self._writer.close()
