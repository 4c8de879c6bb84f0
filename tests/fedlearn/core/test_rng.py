"""Streams: a function of seed and name, nothing else."""

from __future__ import annotations

import numpy as np

from fedlearn.core.rng import Streams


def test_get__starts_the_same_stream_anew_each_time() -> None:
    streams = Streams(7)
    first, again = streams.get("batches", "site", 3), streams.get("batches", "site", 3)
    assert first is not again
    assert (first.random(100) == again.random(100)).all()


def test_key__does_not_change_between_releases() -> None:
    # `printf 'fedlearn/rng/v1\x1f0\x1fpartition' | sha256sum`, the first 16 bytes.
    # A change would silently change every published run.
    digest = bytes.fromhex("be929671fe1ad107eb89e0c28adbb50b")
    assert Streams(0).key("partition") == int.from_bytes(digest, "little")
    drawn = Streams(0).get("partition").integers(0, 2**32, 3).tolist()
    assert drawn == [3169467827, 3865698028, 4061261546]


def test_key__differs_by_seed_name_part_and_order() -> None:
    keys = [
        Streams(seed).key(*name)
        for seed in (0, 1, 10)
        for name in [(), ("a",), ("b",), ("a", "b"), ("b", "a"), ("ab",), ("a", 1), ("a", 10)]
    ]
    assert len(set(keys)) == len(keys)


def test_streams__are_uncorrelated_even_for_neighbouring_names() -> None:
    draws = np.stack([Streams(0).get("batches", i).standard_normal(4000) for i in range(20)])
    correlation = np.corrcoef(draws)[~np.eye(20, dtype=bool)]
    # Each is about N(0, 1/4000); 7 deviations over 190 pairs: false alarm below 1e-9.
    assert abs(correlation).max() < 7 / np.sqrt(4000)


def test_torch_seed__is_a_seed_that_torch_takes() -> None:
    seeds = [Streams(0).torch_seed("model", i) for i in range(200)]
    assert len(set(seeds)) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**60
