"""An owner is told of a study that waits: once, and however many are asked for."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from clients.studies.consent import Consent, HeldError
from fedlearn.config import compose
from fedlearn.core.logs import EVENTS
from fedlearn.flower import messages as flower

NOW = datetime(2026, 12, 1, 8, tzinfo=UTC)


def test_study__that_waits_is_told_of_once_an_hour_whoever_asks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, EVENTS.name)
    ledger = tmp_path / "ledger.jsonl"
    consent = Consent(site="north", ledger=ledger, roster=None, asks=True, notes=True)

    def asked(rounds: int, minutes: int) -> list[str]:
        """The studies that the owner is told of when one is asked for."""
        caplog.clear()
        config = compose(["experiment=medical_heart", f"rounds={rounds}", "purpose='$(x)\x1b['"])
        with pytest.raises(HeldError):
            consent.check(config, flower.HELLO, NOW + timedelta(minutes=minutes))
        told = [one.__dict__["fields"] for one in caplog.records if one.name == EVENTS.name]
        assert all(fields == {"site": "north", "study": config.terms.hex()} for fields in told)
        return [fields["study"] for fields in told]

    assert len(asked(3, 0)) == 1
    assert asked(3, 1) == asked(3, 120) == []  # the same study, asked for again
    assert len(asked(4, 130)) == 1
    assert [asked(rounds, 131 + rounds) for rounds in range(5, 9)] == [[]] * 4
    assert len(asked(9, 300)) == 1
