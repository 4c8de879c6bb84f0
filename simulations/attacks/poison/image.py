"""The picture of an audit by lying sites: attacks down, rules across, and what each cell lost."""

from __future__ import annotations

import io
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fedlearn.core.errors import counted
from fedlearn.report.poison import HELD, HONEST, HURT, Level, Poison, PoisonRow
from fedlearn.tasks import metric_called

_WIDE, _HIGH = 1.4, 0.52
"""Inches of a cell."""
_LEFT, _TOP, _BOTTOM = 1.85, 1.5, 0.95
_INK, _MUTED, _NONE = "#1b2430", "#5d6977", "#eef1f4"
_FILLS: Final[dict[Level, str]] = {"held": "#d7efe6", "hurt": "#fbe7c1", "lost": "#f5c4be"}


def image(found: Poison) -> bytes:
    """A PNG."""
    rules, attacks = [one.kind for one in found.measured], [one.kind for one in found.attacks]
    attacks = [one for one in attacks if any(row.attack == one for row in found.rows)]
    width = max(_LEFT + len(rules) * _WIDE + 0.2, 7.2)
    height = _TOP + (len(attacks) + 1) * _HIGH + _BOTTOM
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    _head(axes, found, rules)
    for number, attack in enumerate((HONEST, *attacks)):
        top = _TOP + number * _HIGH
        name = next(found.called(row) for row in found.rows if row.attack == attack)
        axes.text(0.15, top + _HIGH / 2, name, va="center", size=10, color=_INK)
        for column, rule in enumerate(rules):
            row = found.row(rule, attack)
            if row is not None:
                _cell(axes, row, _LEFT + column * _WIDE, top)
    _foot(axes, height)
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", dpi=110, metadata={"Software": None}, pil_kwargs={"optimize": True}
    )
    return buffer.getvalue()


def _head(axes: Axes, found: Poison, rules: list[str]) -> None:
    who = next((len(row.liars) for row in found.rows if row.liars), 0)
    metric = metric_called(found.metric).title
    axes.text(0.15, 0.36, "What is left of an attack", size=13, weight="bold", color=_INK)
    axes.text(
        0.15, 0.66,
        f"{found.experiment}, {who} of {counted(len(found.sites), 'site')} "
        f"{'lies' if who == 1 else 'lie'}; "
        f"{metric} of the honest sites and points lost, means of {len(found.seeds)} runs",
        size=9, color=_MUTED,
    )  # fmt: skip
    for column, rule in enumerate(rules):
        facts = next(one for one in found.measured if one.kind == rule)
        left = _LEFT + column * _WIDE + 0.06
        axes.text(left, _TOP - 0.3, rule.replace("_", " "), size=10, weight="bold", color=_INK)
        axes.text(left, _TOP - 0.1, f"secagg={facts.secagg}", size=7.5, color=_MUTED)


def _cell(axes: Axes, row: PoisonRow, left: float, top: float) -> None:
    honest = row.attack == HONEST
    fill = _NONE if honest else _FILLS[row.level]
    axes.add_patch(
        Rectangle((left, top), _WIDE - 0.06, _HIGH - 0.06, facecolor=fill, edgecolor="none")
    )
    lost = "" if honest else f"  {_points(row.lost)}"
    axes.text(left + 0.08, top + 0.2, f"{row.value:.3f}", size=9.5, color=_INK, weight="bold")
    axes.text(left + 0.6, top + 0.2, lost, size=9, color=_INK)
    axes.text(left + 0.08, top + 0.38, _note(row), size=7, color=_MUTED)


def _note(row: PoisonRow) -> str:
    """What else is to be said of a cell, in a few words."""
    found = []
    if row.backdoor is not None:
        before = "" if row.backdoor_before is None else f" ({row.backdoor_before:.0%})"
        found.append(f"backdoor {row.backdoor:.0%}{before}")
    if row.ended:
        found.append("ended")
    if row.refused:
        found.append(f"{row.refused:.2g} refused")
    if row.named == len(row.liars) and row.named and not row.false_alarms:
        found.append("named")
    return ", ".join(found)


def _points(lost: float) -> str:
    """What is gained or lost, in points, with its sign where there is one."""
    points = round(-100 * lost, 1)
    return f"{points:+.1f}".replace("-", "−") if points else "0.0"


def _foot(axes: Axes, height: float) -> None:
    top = height - 0.62
    names: dict[Level, str] = {
        "held": f"at most {100 * HELD[0]:.0f} points lost, backdoor +{HELD[1]:.0%}",
        "hurt": f"at most {100 * HURT[0]:.0f}, +{HURT[1]:.0%}",
        "lost": "more",
    }
    left = 0.15
    for level, name in names.items():
        axes.add_patch(Rectangle((left, top), 0.22, 0.16, facecolor=_FILLS[level]))
        axes.text(left + 0.3, top + 0.08, name, va="center", size=8.5, color=_INK)
        left += 0.6 + 0.075 * len(name)
    axes.text(
        0.15, top + 0.42,
        "Backdoor: marked records with the wrong answer (before). Refused: rounds. Named: the "
        "liars and nobody else. Ended: refused too often.",
        size=8, color=_MUTED,
    )  # fmt: skip
