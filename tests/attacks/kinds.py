"""Records that are no tables: how a site names them, what a study says of them, and odd ones.

Texts are in a table, in lines of JSON or in a data set that was saved; images in folders.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from PIL import Image

from server.deployment import composed
from tests.attacks.lab import Lab

Rng = np.random.Generator
Record = tuple[str, object]
"""(class, what is in it): a text, bytes that should be one, or those of a file."""


@dataclass(frozen=True)
class Kind:
    """One way in which records lie at a site."""

    data: str
    """Of its file, in YAML."""
    words: tuple[str, ...]
    """Of a study of such records."""
    model: tuple[str, ...]
    """Of a small model that reads them."""
    write: Callable[[Path, Sequence[Record]], None]
    """Puts the records of a site into its folder, in the place of those before."""
    draw: Callable[[Rng, float], Record]
    """A record, which is anything with a chance."""


# --- texts --------------------------------------------------------------------------

_LABELS: Final = ("0", "1")
_ODD_LABELS: Final = ("", "2", "ja", "1.0", "é" * 300, 'q"', "two\nlines")
_ODD_TEXTS: Final = (
    *("", " ", "x" * 70_000, "漢字", "a\nb", 'said "so"', '"', "NULL", "\ufeff", "a,b", "\u202e"),
    *(b"\xff\xfe", b"caf\xe9", b"\xed\xa0\x80"),
)


def _text(rng: Rng, odd: float) -> Record:
    strange = rng.random() < odd
    labels = (*_LABELS, *_ODD_LABELS) if strange else _LABELS
    label = str(labels[int(rng.integers(len(labels)))])
    if strange and rng.random() < 0.7:
        return label, _ODD_TEXTS[int(rng.integers(len(_ODD_TEXTS)))]
    return label, " ".join(f"w{n}" for n in rng.integers(0, 40, size=int(rng.integers(1, 12))))


def _bytes(text: object) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode()


def _table(folder: Path, records: Sequence[Record]) -> None:
    """A table as a spreadsheet writes it; bytes that are no UTF-8 are put where their text was."""
    held = io.StringIO(newline="")
    csv.writer(held).writerows([("text", "label"), *((f"\0{i}\0" if isinstance(text, bytes)
        else text, label) for i, (label, text) in enumerate(records))])  # fmt: skip
    content = held.getvalue().encode()
    for i, (_, text) in enumerate(records):
        content = content.replace(b"\0%d\0" % i, _bytes(text))
    (folder / "texts.csv").write_bytes(content)


def _lines(folder: Path, records: Sequence[Record]) -> None:
    """An object a line; what is no UTF-8 stands in it as it is."""
    lines = []
    for label, text in records:
        held = json.dumps({"text": "\0" if isinstance(text, bytes) else text, "label": label})
        lines.append(held.encode().replace(b"\\u0000", _bytes(text)))
    (folder / "texts.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def _saved(folder: Path, records: Sequence[Record]) -> None:
    """What `Dataset.save_to_disk` writes; Arrow itself does not look at the bytes of a text."""
    path = folder / "saved"
    path.mkdir(exist_ok=True)
    columns = {"text": [_bytes(text) for _, text in records], "label": [a for a, _ in records]}
    table = pa.table({
        "text": pa.array(columns["text"], pa.binary()).view(pa.string()),
        "label": pa.array(columns["label"], pa.string()),
    })  # fmt: skip
    with (
        pa.OSFile(str(path / "data.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as stream,
    ):
        stream.write_table(table)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (path / "dataset_info.json").write_text(json.dumps({"features": {}}))


_OF_TEXTS: Final = (
    *("scenario.classes=['0','1']", "scenario.tokenizer.kind=hashing"),
    *("scenario.tokenizer.buckets=30", "scenario.tokenizer.max_length=8"),
)


def _texts(kind: str, path: str, write: Callable[[Path, Sequence[Record]], None]) -> Kind:
    return Kind(
        data=f"{{kind: {kind}, path: {path}, text: text, label: label}}",
        words=(f"scenario={kind}", "scenario.path=x", "scenario.label=label", *_OF_TEXTS),
        model=("model=text", "model.pretrained=''", "model.width=4", "model.heads=2"),
        write=write,
        draw=_text,
    )


# --- images --------------------------------------------------------------------------


def _image(rng: Rng, odd: float) -> Record:
    size = (8, 8, 3)
    if rng.random() >= odd:
        return str(rng.choice(_LABELS)), _png(rng.integers(0, 256, size=size).astype(np.uint8))
    strange = (
        b"", b"no image", _png(np.zeros(size, np.uint8))[:60],
        _png(np.full((1, 1, 3), 255, np.uint8)), _png(np.zeros((40, 3, 3), np.uint8)),
        _png(np.full(size, 255, np.uint8)),
    )  # fmt: skip
    label = str(rng.choice([*_LABELS, "2", "other"]))
    return label, strange[int(rng.integers(len(strange)))]


def _png(pixels: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, format="PNG")
    return held.getvalue()


def _folders(folder: Path, records: Sequence[Record]) -> None:
    root = folder / "images"
    shutil.rmtree(root, ignore_errors=True)
    for label in _LABELS:
        (root / label).mkdir(parents=True)
    for number, (label, content) in enumerate(records):
        (root / label).mkdir(exist_ok=True)
        (root / label / f"{number}.png").write_bytes(_bytes(content))


KINDS: Final = {
    "texts": _texts("text", "texts.csv", _table),
    "lines": _texts("text", "texts.jsonl", _lines),
    "saved": _texts("huggingface", "saved", _saved),
    "images": Kind(
        data="{kind: images, path: images}",
        words=(
            *("scenario=images", "scenario.path=x", "scenario.classes=['0','1']"),
            "scenario.size=8",
        ),
        model=("model=cnn", "model.width=2", "model.depth=1", "model.groups=1"),
        write=_folders,
        draw=_image,
    ),
}


# --- sites that have them -------------------------------------------------------------

_SITE: Final = """\
name: {name}
data: {data}
keys: keys/{name}
roster: roster.json
ledger: state/ledger.jsonl
policy:
{policy}server: {{address: "127.0.0.1:{port}", authority: ca.crt}}
"""


def with_records(lab: Lab, kind: Kind, policy: str, rng: Rng, *words: str) -> Lab:
    """The same sites with ordinary records of a kind, and asked for a study of them."""
    for name in lab.world.sites:
        text = _SITE.format(name=name, data=kind.data, policy=policy, port=lab.world.port)
        lab.world.site_file(name).write_text(text)
        kind.write(lab.world.root / name, [kind.draw(rng, 0.0) for _ in range(30)])
    asked = composed(["partition=natural", "reply_timeout=5", *kind.words, *words])
    return lab.again(replace(asked, out=lab.config.out))
