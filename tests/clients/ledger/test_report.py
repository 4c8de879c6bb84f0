"""`fedlearn ledger show` and `verify`: what an owner of data sees, and what is noticed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from clients.ledger.ledger import Budget, Ledger
from clients.ledger.state import Cost
from fedlearn.cli import main
from fedlearn.core.errors import PrivacyError
from fedlearn.privacy.accounting import epsilon
from fedlearn.privacy.events import GaussianEvent

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROUND = GaussianEvent(noise_multiplier=4.0, sample_rate=1.0, steps=2)
OTHER = GaussianEvent(noise_multiplier=8.0, sample_rate=0.5, steps=3)
CLEAR = GaussianEvent(noise_multiplier=0.0, sample_rate=1.0, steps=1)

Output = pytest.CaptureFixture[str]


def cost(event: GaussianEvent, run: str, number: int = 1) -> Cost:
    return Cost(event=event, run_id=run, round_number=number, purpose="training")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of two runs: one reservation is pending, one request was refused."""
    path = tmp_path / "ledger.jsonl"
    budget = Budget(epsilon=4.0, delta=1e-5)
    with Ledger(path, site="cleveland", data="ab" * 32, budget=budget, now=NOW) as ledger:
        for number in (1, 2):
            spent = ledger.reserve(cost(ROUND, "first", number), now=NOW)
            ledger.commit(spent, now=NOW)
        ledger.reserve(cost(OTHER, "second"), now=NOW)
        with pytest.raises(PrivacyError):
            ledger.reserve(cost(CLEAR, "third"), now=NOW)
    return path


def cells(output: str, run: str) -> list[str]:
    (line,) = (line for line in output.splitlines() if line.strip().startswith(run))
    return line.split()


def shown(value: float) -> str:
    """Three decimals, rounded up, by way of text: independent of the code under test."""
    text = f"{value:.3f}"
    return text if float(text) >= value else f"{float(text) + 0.001:.3f}"


def test_ledger_show__states_each_run_and_the_sum_of_all(path: Path, capsys: Output) -> None:
    assert main(["ledger", "show", str(path)]) == 0
    output = capsys.readouterr().out
    first, second = epsilon([ROUND, ROUND], 1e-5), epsilon([OTHER], 1e-5)
    assert cells(output, "first") == ["first", "4", "4", "1", shown(first), "-", "-"]
    assert cells(output, "second") == ["second", "3", "8", "0.5", shown(second), "1", "-"]
    assert cells(output, "third") == ["third", "-", "-", "-", "0.000", "-", "1"]
    total = epsilon([ROUND, ROUND, OTHER], 1e-5)
    assert shown(total) in cells(output, "all runs")
    assert total > max(first, second)
    assert "refused: run third, round 1, training: it would bring the total to" in output
    assert "1 reserved and not committed" in output


def test_ledger_show__states_epsilon_at_the_delta_that_is_asked_for(
    path: Path, capsys: Output
) -> None:
    assert main(["ledger", "show", str(path), "--delta", "1e-3"]) == 0
    assert shown(epsilon([ROUND, ROUND], 1e-3)) in cells(capsys.readouterr().out, "first")


@pytest.mark.parametrize("delta", ["0", "1", "-1e-5", "nan", "1e-300"])
def test_ledger_show__refuses_a_delta_out_of_range(path: Path, delta: str, capsys: Output) -> None:
    assert main(["ledger", "show", str(path), f"--delta={delta}"]) == 2
    assert "--delta=" in capsys.readouterr().err


def test_ledger_show__says_that_a_release_in_clear_has_no_limit(
    tmp_path: Path, capsys: Output
) -> None:
    budget = Budget(epsilon=float("inf"), delta=1e-5)
    with Ledger(tmp_path / "l", site="[bold]x", data="d", budget=budget, now=NOW) as ledger:
        ledger.reserve(cost(CLEAR, "clear"), now=NOW)
    assert main(["ledger", "show", str(tmp_path / "l")]) == 0
    output = capsys.readouterr().out
    assert "no limit" in output
    assert "site [bold]x" in output  # a name is no markup


def test_ledger_verify__prints_the_head_to_note(path: Path, capsys: Output) -> None:
    before = path.read_bytes()
    assert main(["ledger", "verify", str(path)]) == 0
    output = capsys.readouterr().out
    assert "intact, 7 entries of site cleveland" in output
    assert f"head {head_of(output)}" in output
    assert path.read_bytes() == before


def test_ledger_verify__knows_a_head_that_the_ledger_has_grown_from(
    path: Path, capsys: Output
) -> None:
    older = path.read_bytes(), path.with_name("ledger.jsonl.head").read_bytes()
    main(["ledger", "verify", str(path)])
    noted = head_of(capsys.readouterr().out)
    budget = Budget(epsilon=4.0, delta=1e-5)
    with Ledger(path, site="cleveland", data="ab" * 32, budget=budget, now=NOW) as ledger:
        ledger.reserve(cost(OTHER, "fourth"), now=NOW)
    assert main(["ledger", "verify", str(path), "--head", noted]) == 0
    grown = head_of(capsys.readouterr().out)
    assert grown != noted
    # File and head both set back to older copies: intact by themselves, and found out.
    path.write_bytes(older[0])
    path.with_name("ledger.jsonl.head").write_bytes(older[1])
    assert main(["ledger", "verify", str(path)]) == 0
    assert main(["ledger", "verify", str(path), "--head", grown]) == 5
    assert "an older copy" in capsys.readouterr().err
    assert main(["ledger", "verify", str(path), "--head", "abc"]) == 2


@pytest.mark.parametrize("line", range(7))
@pytest.mark.parametrize("command", ["show", "verify"])
def test_ledger__that_was_edited_is_named_with_its_line(
    path: Path, line: int, command: str, capsys: Output
) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b"2026", b"2025")
    path.write_bytes(b"".join(lines))
    assert main(["ledger", command, str(path)]) == 5
    complaint = capsys.readouterr()
    assert f"{path}, line {line + 1}:" in complaint.err
    assert complaint.out == ""


def test_ledger__that_was_cut_or_is_missing_ends_with_5(path: Path, capsys: Output) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert main(["ledger", "verify", str(path)]) == 5
    assert "the end was cut off" in capsys.readouterr().err
    assert main(["ledger", "verify", str(path.parent)]) == 5
    assert main(["ledger", "verify", str(path.parent / "none")]) == 5
    assert "none: cannot be read" in capsys.readouterr().err
    (path.parent / "empty").mkdir()
    assert main(["ledger", "verify", str(path.parent / "empty")]) == 5
    assert "there is no ledger here" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["show", "verify"])
def test_ledger__in_a_folder_is_found_and_one_that_cannot_be_read_ends_with_5(
    path: Path, command: str, capsys: Output
) -> None:
    assert main(["ledger", command, str(path.parent)]) == 0
    assert "cleveland" in capsys.readouterr().out
    head = path.with_name("ledger.jsonl.head")
    head.unlink()
    head.mkdir()
    assert main(["ledger", command, str(path)]) == 5
    assert "cannot be read" in capsys.readouterr().err


def test_ledger_verify__tells_a_crash_from_tampering(path: Path, capsys: Output) -> None:
    with path.open("ab") as file:
        file.write(b'{"entry":{"kind":"res')
    assert main(["ledger", "verify", str(path)]) == 0
    assert "the last line is unfinished" in capsys.readouterr().out


def head_of(output: str) -> str:
    (line,) = (line for line in output.splitlines() if line.startswith("head "))
    assert len(line) == len("head ") + 64
    return line.split()[1]
