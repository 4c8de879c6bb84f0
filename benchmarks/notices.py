"""Several labels a record, on real texts: `python benchmarks/notices.py FOLDER` writes them there.

12,341 notices of licences out of source code, as ScanCode (AboutCode) has collected and marked
them, each with all licences that it names, of the 40 that are named most; one in six names several.
They are dealt out to eight desks by a hash. `notices.csv` is read by `scenario=text task=labels`,
and what TF-IDF with a linear support vector machine gets on the same split is printed.
"""

from __future__ import annotations

import csv
import os
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Final

import numpy as np

from fedlearn.core.rng import Streams
from fedlearn.data.datasets.archives import ARCHIVES, default_cache, fetch
from fedlearn.data.split import by_content

LICENCES: Final = 40
DESKS: Final = 8
LONGEST: Final = 2000
"""Characters of a notice that are kept."""
_RULE: Final = re.compile(r"---\n(.*?)\n---\n(.*)", re.DOTALL)
_NAMES: Final = re.compile(r"[a-z0-9.\-_+]+")
_BETWEEN: Final = {"and", "or", "with"}

Notice = tuple[str, tuple[str, ...]]
"""A text, and the licences that it names."""


def main(folder: str) -> None:
    """Write `notices.csv`, and print what a support vector machine learns from it."""
    archive = fetch(ARCHIVES["contracts"], default_cache(os.environ))
    found = notices(archive)
    path = Path(folder) / "notices.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        sheet = csv.writer(file)
        sheet.writerow(["text", "licences", "desk"])
        for text, names in found:
            place = blake2b(text.encode(), digest_size=4).digest()
            desk = int.from_bytes(place, "little") % DESKS
            sheet.writerow([text, ";".join(names), f"desk-{desk}"])
    print(f"{path}: {len(found)} notices, {sum(len(n) > 1 for _, n in found)} of several licences")
    micro, macro = _by_vectors(found)
    print(f"TF-IDF and a linear support vector machine: micro F1 {micro:.3f}, macro F1 {macro:.3f}")


def notices(archive: Path) -> list[Notice]:
    """Every text once, in the order of its file, with those of the commonest licences it names."""
    whole = list(_whole(archive))
    counts = Counter(name for _, names in whole for name in names)
    common = {name for name, _ in counts.most_common(LICENCES)}
    seen: dict[str, Notice] = {}
    for text, names in whole:
        kept = tuple(name for name in names if name in common)
        if kept:
            seen.setdefault(text.lower(), (text[:LONGEST], kept))
    return list(seen.values())


def _whole(archive: Path) -> Iterator[Notice]:
    with zipfile.ZipFile(archive) as file:
        for member in sorted(name for name in file.namelist() if name.endswith(".RULE")):
            rule = _RULE.match(file.read(member).decode("utf-8"))
            if rule is None or "is_license_notice: yes" not in rule[1]:
                continue
            named = re.search(r"license_expression: (.*)", rule[1])
            if named and (text := " ".join(rule[2].split())):
                yield text, tuple(sorted({*_NAMES.findall(named[1].lower())} - _BETWEEN))


def _by_vectors(found: list[Notice]) -> tuple[float, float]:
    """Micro and macro F1 on the records that a run of seed 0 tests on."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import f1_score
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import MultiLabelBinarizer
    from sklearn.svm import LinearSVC

    texts = np.array([text for text, _ in found], dtype=object)
    targets = MultiLabelBinarizer().fit_transform([names for _, names in found])
    train = by_content((text.encode() for text in texts), 0.25, Streams(0))
    vectors = TfidfVectorizer(sublinear_tf=True, min_df=2)
    model = OneVsRestClassifier(LinearSVC()).fit(
        vectors.fit_transform(texts[train]), targets[train]
    )
    answers = model.predict(vectors.transform(texts[~train]))
    micro, macro = (
        float(f1_score(targets[~train], answers, average=how, zero_division=0))
        for how in ("micro", "macro")
    )
    return micro, macro


if __name__ == "__main__":
    main(sys.argv[1])
