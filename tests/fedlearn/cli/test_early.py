"""What is plainly wrong is said before anything is imported that takes a second."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fedlearn.cli import main
from tests.effort import slow_but

HEAVY = ("flwr", "matplotlib", "opacus", "pandas", "pyarrow", "scipy", "torch", "transformers")
HEART = "experiment=medical_heart"

MAIN = "from fedlearn.cli import main; import sys; main(sys.argv[1:])"
AT_THE_END = f"""
import atexit, sys
atexit.register(lambda: print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr))
"""

CASES = [
    f"simulate {HEART} tarining.lr=3 privacy.epsilon=1 rounds=4",
    "simualte",
    "--help",
    "--version",
    "simulate --help",
    "simulate --epsilon 3",
    "simulate experiment=medical_haert",
    f"compare {HEART} tarining.lr=3 seed=1,2",
    f"audit {HEART} tarining.lr=3",
    "simulate scenario=csv scenario.path=nosuch scenario.label=y scenario.site=z",
    "simulate --config nosuch",
    "report nosuch",
    "audit nosuch",
    "data check nosuch",
    "new study --data nosuch",
    "predict nosuch nosuch.csv",
    "export nosuch --to model",
    "generate nosuch --prompt x",
    "ledger show nosuch",
    "server nosuch",
    "client nosuch",
    "helper nosuch",
    "status nosuch",
    f"queue add nosuch {HEART}",
    "studies list nosuch",
    "desk nosuch",
    "keys kit nosuch",
]


def imported(program: str, words: str, folder: Path) -> tuple[str, list[str]]:
    """What a program says, and which heavy libraries it has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_END + program, *words.split()],
        capture_output=True, text=True, cwd=folder, check=False,
    )  # fmt: skip
    *said, heavy = done.stderr.splitlines()
    return done.stdout + "\n".join(said), heavy.split()


@pytest.mark.parametrize("words", slow_but(lambda words: words == CASES[0], CASES))
def test_trivial_errors__import_nothing_that_takes_a_second(words: str, tmp_path: Path) -> None:
    said, heavy = imported(MAIN, words, tmp_path)
    assert said
    assert "Traceback" not in said
    assert heavy == []


@pytest.mark.slow
def test_package__imports_nothing_before_it_is_asked_for(tmp_path: Path) -> None:
    assert imported("import fedlearn", "", tmp_path)[1] == []
    assert "torch" in imported("import fedlearn; fedlearn.simulate", "", tmp_path)[1]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("report nosuch", 5),
        ("predict nosuch nosuch.csv", 5),
        ("simulate --config nosuch", 2),
        ("server nosuch", 2),
        ("audit nosuch", 5),
    ],
)
def test_paths__that_are_not_there_are_named_all_at_once(
    words: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == code
    said = capsys.readouterr().err
    assert all(f"{word}: " in said for word in words.split() if word.startswith("nosuch"))
