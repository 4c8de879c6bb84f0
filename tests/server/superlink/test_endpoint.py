"""The names of flwr that a coordinator touches, and a real SuperLink behind them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from flwr.cli.build import build_fab_from_files
from flwr.supercore.constant import TaskType

from fedlearn.core.errors import ProtocolError
from fedlearn.crypto.certificates import node_public_key, site_credential
from server.programs import superlink
from server.serverfile import ServerFile
from server.superlink import endpoint as module
from server.superlink.endpoint import SuperLink

# flwr reads .gitignore files with an old name of pathspec.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

CHANGED = "flwr has changed: mend server/superlink/endpoint.py"


def test_app__holds_the_names_of_installed_apps_and_no_code() -> None:
    content, _ = build_fab_from_files(module._APP)
    with zipfile.ZipFile(io.BytesIO(content)) as bundle:
        sources = [name for name in bundle.namelist() if name.endswith(".py")]
        assert sorted(sources) == ["installed_client.py", "installed_server.py"], CHANGED
        for name in sources:
            lines = [line for line in bundle.read(name).decode().splitlines() if line]
            assert len(lines) == 2
            assert lines[0].endswith("import app")


def test_flwr__calls_our_task_by_this_name() -> None:
    assert TaskType.SERVER_APP.value == module.TASK, CHANGED


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuperLink]:
    folder = tmp_path_factory.mktemp("link")
    nowhere = Path("unused")
    file = ServerFile(
        listen="127.0.0.1:1", keys=nowhere, roster=nowhere, introductions=nowhere, tls=nowhere,
        state=folder, wait_seconds=1.0, client_certificates=True,
    )  # fmt: skip
    with superlink(file) as running:
        yield running


@pytest.mark.slow
def test_superlink__enrols_a_key_once(link: SuperLink) -> None:
    key = node_public_key(site_credential("a", datetime.now(UTC)).certificate)
    node = link.register(key, "a")
    assert link.nodes()[node] == "registered", CHANGED
    with pytest.raises(ProtocolError, match="register: superlink: again: "):
        link.register(key, "again")


@pytest.mark.slow
def test_superlink__lets_only_who_holds_the_secret_carry_a_run_out(link: SuperLink) -> None:
    run_id = link.start_run({"config": "{}", "overrides": ""})
    thief = SuperLink(link.address, link._authority, b"guessed")
    with pytest.raises(httpx.HTTPStatusError, match=r"401|403"), thief.carry_out(run_id):
        pytest.fail("the task of a run was claimed without the secret")
    thief.close()
    with link.carry_out(run_id) as (grid, context):
        assert context.run_config == {"config": "{}", "overrides": ""}
        assert list(grid.get_node_ids()) == []
    with pytest.raises(ProtocolError, match="not the one that waits"), link.carry_out(run_id):
        pytest.fail("a run was carried out twice")
