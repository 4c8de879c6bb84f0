"""What could be better about a table: numbers that a model would see as one, and rare classes."""

from __future__ import annotations

from pathlib import Path

from fedlearn.config import compose
from fedlearn.data.check.files import check


def hints(folder: Path, rows: list[str], header: str) -> tuple[str, ...]:
    path = folder / "table.csv"
    path.write_text("\n".join([header, *rows]))
    return check(path).hints


def test_hints__say_which_numbers_need_a_range(tmp_path: Path) -> None:
    rows = [
        f"{36 + i % 50 / 10},{20 + i * 7 % 50},{2010 + i % 9},{-5 + i % 11},{i % 2}"
        for i in range(60)
    ]
    narrow, others, *_ = hints(tmp_path, rows, "temperature,weight,since,change,outcome")
    assert "vary by less than a quarter of their size (temperature, since) need a" in narrow
    assert others.startswith("numbers (weight, change) may be learned better")


def test_hints__name_rare_classes_and_how_to_weigh_them(tmp_path: Path) -> None:
    label = ["no"] * 55 + ["a=b"] * 4 + [""] * 3
    rows = [f"{i},{name}" for i, name in enumerate(label, start=30)]
    (hint,) = [one for one in hints(tmp_path, rows, "weight,outcome") if "classes" in one]
    assert hint.startswith("classes of 'outcome' with less than a tenth of the records (a=b)")
    assert '(training.class_weights."a=b"=WEIGHT)' in hint
    config = compose(["scenario=csv", "scenario.path=x", "scenario.label=y",
                      'training.class_weights."a=b"=10'])  # fmt: skip
    assert config.training.class_weights == {"a=b": 10}


def test_hints__are_silent_about_classes_that_are_common_enough(tmp_path: Path) -> None:
    rows = [f"{i},{'yes' if i % 5 else 'no'}" for i in range(30, 90)]
    assert not any("classes" in one for one in hints(tmp_path, rows, "weight,outcome"))
