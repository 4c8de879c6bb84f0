"""Notices of licences: what is read from an archive, each text once, with all that it names."""

from __future__ import annotations

import zipfile
from pathlib import Path

from benchmarks.notices import notices

SEVERAL = "mit AND (gpl-2.0 OR apache-2.0)"
RULES = {
    "a.RULE": f"---\nlicense_expression: {SEVERAL}\nis_license_notice: yes\n---\nSome\n  notice.",
    "b.RULE": "---\nlicense_expression: mit\nis_license_notice: yes\n---\nsome NOTICE.",
    "c.RULE": "---\nlicense_expression: mit\nis_license_tag: yes\n---\na tag",
    "d.RULE": "---\nis_license_notice: yes\nis_false_positive: yes\n---\nof nothing",
    "e.LICENSE": "no rule",
}


def test_notice__is_there_once_with_every_licence_that_it_names(tmp_path: Path) -> None:
    archive = tmp_path / "rules.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name, text in RULES.items():
            file.writestr(name, text)
    assert notices(archive) == [("Some notice.", ("apache-2.0", "gpl-2.0", "mit"))]
