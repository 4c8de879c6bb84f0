"""Common randomness: nobody chooses it, and everybody who has seen the same has the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from fedlearn.crypto.common import OpenedShare, commitment, new_share, opened, seed_of
from fedlearn.crypto.identity import Identity

NAMES = ("alder", "birch", "cedar")
RUN = bytes(16)


class Party:
    """Sites with keys, shares and what they are committed to."""

    def __init__(self) -> None:
        self.keys = {name: Identity.new() for name in NAMES}
        self.shares = {name: new_share() for name in NAMES}
        self.commitments = {name: commitment(name, self.shares[name]) for name in NAMES}
        self.publics = {name: key.public for name, key in self.keys.items()}
        self.openings: dict[str, OpenedShare] = {
            name: opened(self.keys[name], name, self.shares[name], RUN, self.commitments)
            for name in NAMES
        }

    def seed(self, openings: Mapping[str, OpenedShare] | None = None, run: bytes = RUN) -> bytes:
        return seed_of(openings or self.openings, run, self.commitments, self.publics)


def test_seed__is_the_same_for_all_and_another_where_one_share_is() -> None:
    party = Party()
    assert party.seed() == party.seed(dict(reversed(party.openings.items())))
    assert len(party.seed()) == 32
    assert party.seed() != Party().seed()


def test_share__that_is_not_what_its_site_was_committed_to_is_refused() -> None:
    """Whoever has seen the others' shares cannot take another for his own."""
    party = Party()
    other = new_share()
    with pytest.raises(ValueError, match="not committed"):
        opened(party.keys["alder"], "alder", other, RUN, party.commitments)
    own = {**party.commitments, "alder": commitment("alder", other)}
    late = opened(party.keys["alder"], "alder", other, RUN, own)
    with pytest.raises(ValueError, match="another share than"):
        party.seed({**party.openings, "alder": late})


@pytest.mark.parametrize("change", ["run", "commitments", "owner", "name"])
def test_share__was_opened_by_its_site_for_this_run_and_these_commitments(change: str) -> None:
    """So a coordinator shows two sites neither another run nor other commitments."""
    party = Party()
    who, run, listed = "birch", RUN, dict(party.commitments)
    if change == "run":
        run = bytes([1]) * 16
    if change == "commitments":
        listed["cedar"] = commitment("cedar", new_share())
    key = party.keys["alder" if change == "owner" else who]
    found = opened(key, who, party.shares[who], run, listed)
    if change == "name":
        found = replace(party.openings["alder"])
    with pytest.raises(ValueError, match=r"has not opened its share|another share"):
        party.seed({**party.openings, who: found})


def test_seed__needs_the_share_of_every_site_and_of_nobody_else() -> None:
    party = Party()
    fewer = {name: one for name, one in party.openings.items() if name != "cedar"}
    for openings in (fewer, {**party.openings, "doum": party.openings["alder"]}):
        with pytest.raises(ValueError, match="not those of the run's sites"):
            party.seed(openings)


def test_commitment__of_one_site_is_none_of_another_with_the_same_share() -> None:
    share = new_share()
    assert commitment("alder", share) != commitment("birch", share)
    assert commitment("alder", share) == commitment("alder", share)
