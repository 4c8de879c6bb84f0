"""What the coordinator keeps of sums over groups, and its public records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clients.records import simulated_sites
from fedlearn.config import RunConfig, compose
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import to_vector
from fedlearn.data import load_pool
from fedlearn.data.datasets.archives import default_cache
from fedlearn.data.pool import public_rows
from fedlearn.results.folder import Checkpoint, RunFolder
from fedlearn.robust import Draw, Groups
from server.groups import Suspicion
from server.public import PublicRecords
from tests.effort import examples
from tests.simulations.small import table

NAMES = ("alder", "birch", "cedar", "doum", "elm", "fir", "gean", "hazel", "ivy")
LENGTH = 20


def watched(liar: int | None, rounds: int, seed: int = 0) -> tuple[Suspicion, list[str]]:
    """So many rounds of nine sites that give the same, but for one; and who was named."""
    rng = np.random.default_rng(seed)
    give = np.tile(rng.normal(size=LENGTH), (len(NAMES), 1))
    if liar is not None:
        give[liar] *= -1
    suspicion = Suspicion(Groups(), NAMES, rounds, reach=10.0)
    draw, named = Draw(bytes(32), NAMES, 3), list[str]()
    for number in range(1, rounds + 1):
        groups = draw.groups(number, suspicion.without)
        sums = [
            np.mean([give[NAMES.index(s)] + 0.3 * rng.normal(size=LENGTH) for s in group], axis=0)
            for group in groups
        ]
        suspicion.take(number, groups, np.array(sums))
        named += [one.site for one in suspicion.look(number, [])]
    return suspicion, named


@pytest.mark.parametrize("liar", [0, 3, 8])
def test_site_that_undoes_what_others_do__is_named_once_and_its_sums_are_not_clean(
    liar: int,
) -> None:
    suspicion, named = watched(liar, 16)
    assert named == [NAMES[liar]]
    clean = dict(suspicion.clean())
    left = [one.number for one in suspicion.changes if NAMES[liar] not in one.sites]
    assert sorted(clean) == sorted(set(left))
    assert len(clean) == 16
    assert {len(sums) for sums in clean.values()} == {2}
    assert all(NAMES[liar] not in one.sites for sums in clean.values() for one in sums)


def test_site__that_others_may_have_framed_is_shown_as_blamed_and_not_named() -> None:
    """Two lie together against the last, in 30 rounds."""
    rng, ahead = np.random.default_rng(3), np.eye(LENGTH)[0]
    suspicion, draw = Suspicion(Groups(), NAMES, 30), Draw(bytes(32), NAMES, 3)
    for number in range(1, 31):
        sums = []
        for group in (groups := draw.groups(number)):
            theirs = -4.0 if NAMES[-1] in group else 2.0
            each = [theirs if site in NAMES[:2] else 0.5 for site in group]
            sums.append(np.mean(each) * ahead + 0.05 * rng.normal(size=LENGTH))
        suspicion.take(number, groups, np.array(sums))
        assert suspicion.look(number, []) == []
    assert suspicion.blamed == (NAMES[-1],)


def test_honest_sites__are_not_named() -> None:
    assert [watched(None, 16, seed)[1] for seed in range(examples(20))] == [[]] * examples(20)


def test_site__is_named_for_sums_that_nobody_else_accounts_for() -> None:
    suspicion = Suspicion(Groups(), NAMES, 10)
    refused = [NAMES[:3], (NAMES[0], *NAMES[3:5])]
    assert suspicion.look(2, refused) == []
    (found,) = suspicion.look(3, [*refused, (NAMES[0], *NAMES[5:7])])
    assert (found.site, found.round) == (NAMES[0], 3)
    # No more than a quarter.
    (second,) = suspicion.look(4, [("birch", "cedar", "doum"), ("birch", "elm", "fir")])
    assert second.site == "birch"
    assert suspicion.look(5, [("cedar", "doum", "elm"), ("cedar", "fir", "gean")]) == []


def test_suspicion__goes_on_from_a_checkpoint_as_if_nothing_had_been(tmp_path: Path) -> None:
    before, _ = watched(1, 7)
    (tmp_path / "checkpoint").mkdir()
    state = Checkpoint.fresh("00", "now", np.zeros(LENGTH, np.float32))
    RunFolder(tmp_path).write_checkpoint(before.checkpoint(state))
    read = RunFolder(tmp_path).read_checkpoint()
    assert read is not None
    after = Suspicion(Groups(), NAMES, 7, reach=10.0)
    after.restore(read)
    assert after.findings == before.findings
    for one, other in zip(before.changes, after.changes, strict=True):
        assert (one.number, one.sites) == (other.number, other.sites)
        assert np.array_equal(one.change, other.change)


# --- public records ----------------------------------------------------------------


def study(folder: Path, *words: str) -> RunConfig:
    sites = ("alder", "birch", "cedar")
    words = (*table(folder, sites=sites), "robust=fltrust", "secagg=masked", *words)
    return compose([*words, f"out={folder / 'run'}"])


def test_public_records__are_no_sites_and_of_training(tmp_path: Path) -> None:
    config = study(tmp_path, "robust.public=0.3")
    pool = load_pool(config.scenario, Streams(config.seed), default_cache({}))
    public = public_rows(pool, 0.3, Streams(config.seed))
    assert 0 < public.sum() < pool.is_train.sum()
    assert not (public & ~pool.is_train).any()
    shared = simulated_sites(config)
    without = simulated_sites(replace(config, robust=Groups()))
    for name, site in shared.items():
        assert len(site.train) <= len(without[name].train)
        assert len(site.test) == len(without[name].test)
    taken = sum(len(site.train) for site in without.values())
    assert taken - sum(len(site.train) for site in shared.values()) == public.sum()


def test_public_records__are_drawn_each_by_what_it_holds(tmp_path: Path) -> None:
    config = study(tmp_path)
    pool = load_pool(config.scenario, Streams(config.seed), default_cache({}))
    whole = public_rows(pool, 0.3, Streams(config.seed))
    half = replace(
        pool,
        features=pool.features[::2], labels=pool.labels[::2], is_train=pool.is_train[::2],
        natural_site=None, attributes={},
    )  # fmt: skip
    assert np.array_equal(public_rows(half, 0.3, Streams(config.seed)), whole[::2])


def test_public_records__say_what_training_on_them_changes(tmp_path: Path) -> None:
    config = study(tmp_path, "robust.public=0.3")
    task = load_pool(config.scenario, Streams(config.seed), default_cache({})).task
    public = PublicRecords.of(config, task, deployed=False)
    assert public is not None
    start = to_vector(public.learner.model)
    change = public.change(start, 1)
    assert np.linalg.norm(change) > 0
    assert np.array_equal(change, public.change(start, 1))


def test_public_records__of_a_deployment_are_in_a_file_of_the_runs_form(tmp_path: Path) -> None:
    config = study(tmp_path)
    task = load_pool(config.scenario, Streams(config.seed), default_cache({})).task
    with pytest.raises(ConfigError, match=r"robust\.public_file: sites on machines of their own"):
        PublicRecords.of(config, task, deployed=True)
    own = replace(config, robust=replace(config.robust, public_file=config.scenario.path))  # type: ignore[attr-defined,call-arg]
    public = PublicRecords.of(own, task, deployed=True)
    assert public is not None
    assert len(public.targets) == len(load_pool(config.scenario, Streams(0), default_cache({})))
    other = replace(config.scenario, label="smoker")  # type: ignore[call-arg]
    task = load_pool(other, Streams(0), default_cache({})).task
    with pytest.raises(DataError, match="must be the same"):
        PublicRecords.of(own, task, deployed=True)


@pytest.mark.parametrize(
    "columns", [("age", "smoker", "ill"), ("hospital", "ill", "age", "smoker")]
)
def test_public_records__have_no_sites_and_need_no_column_of_them(
    tmp_path: Path, columns: tuple[str, ...]
) -> None:
    """Nor one that is dropped; where the file has them, nothing is learned from them."""
    config = study(tmp_path)
    noted = replace(config.scenario, drop=("note",))  # type: ignore[call-arg]
    own = (tmp_path / "my.csv").read_text().splitlines()
    (tmp_path / "my.csv").write_text(
        "\n".join([f"{own[0]},note", *(f"{row},x" for row in own[1:])])
    )
    task = load_pool(noted, Streams(0), default_cache({})).task
    rows = [dict(zip(own[0].split(","), row.split(","), strict=True)) for row in own[1:]]
    lines = [columns, *([row[name] for name in columns] for row in rows)]
    file = tmp_path / "public.csv"
    file.write_text("\n".join(",".join(line) for line in lines))
    rule = replace(config.robust, public_file=str(file))  # type: ignore[call-arg]
    public = PublicRecords.of(replace(config, scenario=noted, robust=rule), task, deployed=True)
    assert public is not None
    assert public.inputs.shape == (len(rows), *task.input_shape)


def test_rule_without_public_records__has_none(tmp_path: Path) -> None:
    config = replace(study(tmp_path), robust=Groups())
    assert PublicRecords.of(config, None, deployed=True) is None  # type: ignore[arg-type]
