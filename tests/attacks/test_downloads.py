"""No study makes a deployed site download anything: it has what its owner has put there."""

from __future__ import annotations

import logging
import subprocess
import urllib.request
from contextvars import copy_context
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from clients.app import app
from clients.supernode.checkup import check as check_site
from fedlearn.core.errors import ConfigError, DataError, FedlearnError
from fedlearn.data.datasets.archives import ARCHIVES, Pinned, fetch, nothing_brought
from fedlearn.data.images.medmnist_sets import SETS
from simulations.engines.local import FIRST_NODE
from tests.attacks.kinds import KINDS, with_records
from tests.attacks.lab import SITES, STRICT, Lab

EVERYTHING: dict[str, Pinned] = {**ARCHIVES, **{name: one.file for name, one in SETS.items()}}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[object]:
    """What was asked of the network, which is not there; the cache is empty."""
    calls: list[object] = []

    def run(command: list[str], **_: Any) -> Any:
        calls.append(command)
        return subprocess.CompletedProcess(command, 1, "", "no network")

    def urlopen(address: str, **_: Any) -> Any:
        calls.append(address)
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("FEDLEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return calls


@pytest.mark.parametrize("name", EVERYTHING)
def test_nothing__is_brought_at_a_deployed_site_and_the_way_out_is_said(
    tmp_path: Path, asked: list[object], name: str
) -> None:
    with nothing_brought(), pytest.raises(DataError, match=f"run `fedlearn data fetch {name}`"):
        fetch(EVERYTHING[name], tmp_path / "cache")
    assert asked == []
    with pytest.raises(DataError):  # outside it is looked for
        fetch(EVERYTHING[name], tmp_path / "cache")
    assert len(asked) == 1


WANTS = {
    "weights": (
        *("texts", "scenario.tokenizer.kind=wordpiece", "scenario.tokenizer.vocabulary=minilm"),
        *("model=text", "model.pretrained=minilm", "model.width=384", "model.heads=12"),
    ),
    "words": ("lines", "scenario.tokenizer.kind=wordpiece", "scenario.tokenizer.vocabulary=minilm",
              "model=text", "model.pretrained=''"),
    "of images": ("images", "model=squeezenet", "model.modules=2", "model.resolution=32",
                  "training.finetune=head"),
}  # fmt: skip
"""Studies that name what a site may lack."""


@pytest.mark.parametrize("wants", WANTS)
def test_study__that_names_what_a_site_lacks_is_refused_and_nothing_is_fetched(
    tmp_path: Path, asked: list[object], wants: str, caplog: pytest.LogCaptureFixture
) -> None:
    kind, *words = WANTS[wants]
    lab = with_records(
        Lab.make(tmp_path), KINDS[kind], STRICT, np.random.default_rng(0), *words,
        *("privacy=record", "training.nominal_records=40", "training.sample_rate=0.2"),
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "clients.app"), pytest.raises(FedlearnError) as refused:
        lab.federate()
    assert asked == []
    said = str(refused.value)
    assert all(name in said for name in SITES)
    assert not any(word in said for word in ("minilm", "squeezenet", "cache", str(tmp_path)))
    assert "run `fedlearn data fetch" in caplog.text  # at home the reason and the way out


def test_owner__is_told_by_the_check_what_a_site_lacks(tmp_path: Path, asked: list[object]) -> None:
    lab = Lab.make(tmp_path)
    path = lab.world.site_file(SITES[0])
    path.write_text(path.read_text().replace(
        "{kind: csv, path: table.csv, label: ill, drop: [name]}", "{kind: heart}"
    ))  # fmt: skip
    with pytest.raises(ConfigError, match="fedlearn data fetch heart"):
        check_site(path, datetime.now(UTC))
    assert asked == []


def test_handler__that_is_added_later_brings_nothing_either(
    tmp_path: Path, asked: list[object]
) -> None:
    @app.query("added")
    def added(message: Message, context: Context) -> Message:
        fetch(ARCHIVES["heart"], tmp_path / "cache")
        return message

    context = Lab.make(tmp_path / "lab").contexts[FIRST_NODE]
    try:
        with pytest.raises(DataError, match="fedlearn data fetch heart"):
            app(Message(RecordDict(), dst_node_id=FIRST_NODE, message_type="query.added"), context)
    finally:
        del app._registered_funcs["query.added"]
    assert asked == []


def test_simulated__sites_beside_it_go_on_fetching(tmp_path: Path, asked: list[object]) -> None:
    """What a deployed site may not do is said for its own work alone."""
    outside = copy_context()
    with nothing_brought(), pytest.raises(DataError, match="could not download"):
        outside.run(fetch, ARCHIVES["heart"], tmp_path / "cache")
    assert len(asked) == 1
