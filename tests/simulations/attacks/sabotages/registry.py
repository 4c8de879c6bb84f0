"""Which sabotages there are, and what sees them."""

from __future__ import annotations

from collections.abc import Callable

from fedlearn.auditing.findings import CheckName
from tests.simulations.attacks.audited import Sabotage

CAUGHT: dict[Sabotage, CheckName] = {}
"""Written blind, and a check that sees each."""


def seen_by(name: CheckName) -> Callable[[Sabotage], Sabotage]:
    def keep(sabotage: Sabotage) -> Sabotage:
        CAUGHT[sabotage] = name
        return sabotage

    return keep
