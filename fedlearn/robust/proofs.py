"""Every site proves that its update is within the bound; one that does not is in no sum."""

from __future__ import annotations

from typing import Literal

from fedlearn.core.settings import config
from fedlearn.robust.bounds import Bounds


@config
class Proofs(Bounds):
    """What `bounded` does, and before a site's update is added it has proved its norm.

    It takes two servers that do not work together (`secagg=two_server`). A site whose proof does
    not hold is left out of the round and named; the round goes on. What is opened is held to the
    bound of a sum as well: noise that is new at every site adds up to less than all of the bounds.
    """

    kind: Literal["proofs"] = "proofs"

    @property
    def open_to(self) -> str:
        """What one site could send."""
        return (
            "A site that lies can send as much as an honest one may at the most, noise included, "
            "in every round, and honest ones send less and less: among few sites it can turn the "
            "model round. robust=fltrust, with public records, leaves least of that; "
            "robust.proofs=true adds the proofs to it."
        )

    @property
    def proves(self) -> bool:
        """Always."""
        return True
