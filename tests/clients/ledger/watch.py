"""What is done to the records of a site, seen where it is done; and kills in the middle of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

import fedlearn.training.private
from clients import evaluation
from clients.ledger import hash_chain
from fedlearn.mechanisms import encoding
from fedlearn.mechanisms import evaluation as test_noise
from tests.clients.ledger.losses import Release

VICTIM = "alder"
"""Whose records are watched."""


class Killed(BaseException):
    """The process is gone: no handler of the site runs for it."""


@dataclass
class Watch:
    """What is done to the victim's records, wherever its answer ends up."""

    site: str = ""
    """Whose message is being answered."""
    releases: list[Release] = field(default_factory=list)
    trainings: int = 0
    evaluations: int = 0
    exact: int = 0
    shares: list[Callable[[int], Release]] = field(default_factory=list)
    """What share the victim has added in this step; a release once it is known to how many."""
    drawn: set[str] = field(default_factory=set)
    """Who has added a share in this step."""
    fuse: int | None = None
    """Moments until the process is killed."""

    def moment(self) -> None:
        """Something at which a process may be killed."""
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                self.fuse = None
                raise Killed

    @property
    def touched(self) -> tuple[int, ...]:
        """Grows whenever records are used."""
        return self.trainings, self.evaluations, self.exact

    def opened(self, colluders: int) -> None:
        """The step is over: the shares of all who have added one are in its sum."""
        honest = max(1, len(self.drawn) - colluders)
        self.releases += [share(honest) for share in self.shares]
        self.shares, self.drawn = [], set()


def watching(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Look on at all mechanisms, and let the process die at any of them and in any write."""
    seen = Watch()
    _watch_training(seen, monkeypatch)
    _watch_tests(seen, monkeypatch)
    write, replaced = hash_chain._write, hash_chain.write_atomically

    def half(file: int, data: bytes) -> None:
        try:
            seen.moment()
        except Killed:
            write(file, data[: int.from_bytes(os.urandom(2)) % (len(data) + 1)])
            raise
        write(file, data)

    def before_or_after(*arguments: Any) -> None:
        seen.moment()
        replaced(*arguments)
        seen.moment()

    monkeypatch.setattr(hash_chain, "_write", half)
    monkeypatch.setattr(hash_chain, "write_atomically", before_or_after)
    monkeypatch.setattr(os, "fsync", lambda file: seen.moment())
    return seen


def _watch_training(seen: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    module = fedlearn.training.private
    steps, gradients, noise = module.train_private, module.clipped_gradient_sum, encoding.integers

    def train_private(model: Any, x: Any, y: Any, training: Any, plan: Any, **more: Any) -> None:
        seen.moment()
        if seen.site == VICTIM:
            seen.trainings += 1
            one = Release(
                law="gaussian", stddev=plan.noise_multiplier, moves=(1.0,), rate=plan.sample_rate
            )
            seen.releases += [one] * training.local_steps
        steps(model, x, y, training, plan, **more)
        seen.moment()

    def clipped_gradient_sum(model: Any, *data: Any, **more: Any) -> Any:
        seen.moment()
        seen.trainings += seen.site == VICTIM
        return gradients(model, *data, **more)

    def integers(plan: Any, *of: Any, **more: Any) -> Any:
        seen.drawn.add(seen.site)
        if seen.site == VICTIM:
            seen.shares.append(
                lambda honest: Release(
                    law=plan.law,
                    stddev=plan.share_stddev * honest**0.5,
                    moves=(plan.clip_norm / plan.granularity,),
                    rate=plan.sample_rate,
                )
            )
        return noise(plan, *of, **more)

    monkeypatch.setattr(module, "train_private", train_private)
    monkeypatch.setattr(module, "clipped_gradient_sum", clipped_gradient_sum)
    monkeypatch.setattr(encoding, "integers", integers)


def _watch_tests(seen: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    noised, exact, drawn_from = evaluation.noised, evaluation.exact, test_noise.integer_noise
    stddev = [0]

    def integer_noise(law: Any, spread: int) -> Any:
        stddev[0] = spread
        return drawn_from(law, spread)

    def private_sums(site: Any, plan: Any, *of: Any) -> Any:
        seen.moment()
        given = noised(site, plan, *of)
        of_one, moves = stddev[0], tuple(float(step) for step in plan.steps)
        seen.drawn.add(site.name)
        if site.name == VICTIM:
            seen.evaluations += 1
            in_shares = site.config.privacy.noise_from == "shares"
            seen.shares.append(
                lambda honest: Release(
                    law=plan.law, stddev=of_one * (honest if in_shares else 1) ** 0.5, moves=moves
                )
            )
        seen.moment()
        return given

    def exact_sums(site: Any, *of: Any) -> Any:
        seen.exact += site.name == VICTIM
        seen.moment()
        return exact(site, *of)

    monkeypatch.setattr(test_noise, "integer_noise", integer_noise)
    monkeypatch.setattr(evaluation, "noised", private_sums)
    monkeypatch.setattr(evaluation, "exact", exact_sums)
