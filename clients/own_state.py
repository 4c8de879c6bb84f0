"""What an algorithm keeps at a site between rounds, such as the control variates of SCAFFOLD.

It lies beside the site's ledger, readable by its user alone, one file for each run, and never
leaves the site. A model of the site's own (`personal-*.safetensors`) outlives its run; all else is
forgotten once another has begun. It is on the disk before the reply of its round leaves, so that a
site that was restarted, or a run that is resumed, goes on from it.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from clients.owner import file_name
from clients.site import Site
from fedlearn.algorithms import Vectors
from fedlearn.core.errors import DataError
from fedlearn.core.files import PRIVATE, write_atomically
from fedlearn.results.own_model import AFTER, OWN_MODEL, PART
from fedlearn.rounds import TrainRequest


@dataclass(frozen=True)
class OwnState:
    """The state of the site `name` in one run; its vectors have `size` values.

    A file holds two states: that before the last round in which the site has trained, and
    that after it. Which of them counts is known with the next request, in which the coordinator
    names the last round whose sum held what the site had sent: a site whose reply was lost, or
    whose round has failed, trains from where the others think it is.
    """

    path: Path
    name: str
    size: int
    part: str = "none"
    """Which part of the model is the site's own, if not all of it."""

    @classmethod
    def of(cls, site: Site, request: TrainRequest) -> OwnState:
        """That of the run of a request."""
        # The id comes from the coordinator: as it is, it could be any path.
        run = hashlib.sha256(request.run_id.encode()).hexdigest()[:32]
        kind = OWN_MODEL if site.config.personal else "algorithm"
        path = site.owner.ledger.parent / f"{kind}-{run}.safetensors"
        return cls(path, site.name, request.model.size, site.config.training.personal)

    def before(self, counted: int) -> Vectors:
        """The state to train from, if `counted` was the last round that held this site's part.

        Raises:
            DataError: there is none of that round, or it cannot be read.
        """
        if not self.path.exists() and not counted:
            return {}
        try:
            found = self._read(counted)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise self._lost(f"cannot be read ({type(error).__name__})") from None
        if found is None:
            raise self._lost(f"is not that of round {counted}, the last that counted")
        if any(v.shape != (self.size,) or not np.isfinite(v).all() for v in found.values()):
            raise self._lost("holds vectors of another model, or numbers that are not finite")
        return found

    def _read(self, counted: int) -> Vectors | None:
        with safe_open(self.path, "numpy") as file:
            rounds = file.metadata()
            marks = {int(rounds["before"]): "before.", int(rounds["after"]): AFTER}
            if counted not in marks:
                return None
            mark = marks[counted]
            return {
                key.removeprefix(mark): np.asarray(file.get_tensor(key), np.float32)
                for key in file.keys()  # noqa: SIM118  (not a dictionary)
                if key.startswith(mark)
            }

    def _lost(self, reason: str) -> DataError:
        return DataError(
            f"site {self.name}: what its algorithm keeps of this run, {self.path}, {reason}. Put "
            "the file back, or start a new run"
        )

    def keep(self, request: TrainRequest, before: Vectors, after: Vectors) -> None:
        """Write both down; on return they have reached the disk.

        Raises:
            OSError: they could not, and what was there is still there.
        """
        tensors = {f"before.{name}": np.ascontiguousarray(v) for name, v in before.items()}
        tensors |= {f"{AFTER}{name}": np.ascontiguousarray(v) for name, v in after.items()}
        rounds = {"before": str(request.counted), "after": str(request.round)}
        content = save(tensors, {**rounds, PART: self.part})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, content, PRIVATE)

    def forget_others(self) -> None:
        """Remove what is left of other runs, where a site takes part in one at a time."""
        for path in self.path.parent.glob("algorithm-*.safetensors"):
            if path != self.path:
                with contextlib.suppress(OSError):
                    path.unlink()


def kept_model(run: Path, site: str) -> tuple[Path, str]:
    """The file of a site's own model, by the site's name in the folder of a simulation or by the
    path of the file; and the name where it is known.

    Raises:
        DataError: there is none.
    """
    if Path(site).is_file():
        return Path(site), ""
    found = sorted((run / "sites" / file_name(site)).glob(f"{OWN_MODEL}-*.safetensors"))
    if len(found) == 1:
        return found[0], site
    raise DataError(
        f"--site {site}: {run} keeps no own model of a site of that name, and there is no such "
        "file. Sites with a file of their own keep theirs beside their ledger: give that "
        f"({OWN_MODEL}-*.safetensors)"
    )
