"""Files of texts as people have them, drawn at random, and what is right for each record.

Texts are drawn as they should arrive. What nobody sees or needs (signs of direction, spaces around
a text, decomposed letters), how the file is laid out and encoded, and how a class is spelled is
drawn apart, so that what is right is known without reading the file again.
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

Rng = np.random.Generator

WORDS: Final = {
    "Latin": "the patient was seen again after two weeks and felt much better than before",
    "German": "der Patient kam nach zwei Wochen wieder und fühlte sich größer müßig übel schön",
    "Chinese": "患者两周后复诊自述症状明显好转建议继续服药定期检查服务态度很好价格便宜",
    "Taiwan": "患者兩週後複診自述症狀明顯好轉建議繼續服藥定期檢查服務態度很好價格便宜",
    "Japanese": "患者は二週間後に再診し症状は改善した薬を続けて定期的に検査を受けてください",
    "Korean": "환자는 이 주 후에 다시 방문하였고 증상이 많이 좋아졌다고 말했다 약을 계속 복용",
    "Russian": "пациент пришёл снова через две недели и чувствовал себя намного лучше прежнего",
    "Arabic": "عاد المريض بعد أسبوعين وشعر بتحسن كبير عن ذي قبل وسوف يستمر في العلاج",
    "Hindi": "रोगी दो सप्ताह बाद फिर आया और पहले से बहुत बेहतर महसूस कर रहा था",
}
ENCODINGS: Final = {
    "Latin": ["utf-8", "utf-8-sig", "utf-16"],
    "German": ["utf-8", "utf-8-sig", "cp1252", "utf-16"],
    "Chinese": ["utf-8", "gb18030", "utf-16"],
    "Taiwan": ["utf-8", "big5", "utf-8-sig"],
    "Japanese": ["utf-8", "shift_jis"],
    "Korean": ["utf-8", "euc_kr"],
    "Russian": ["utf-8", "utf-8-sig", "utf-16"],
    "Arabic": ["utf-8", "utf-16"],
    "Hindi": ["utf-8", "utf-8-sig"],
}
CLASSES: Final = {
    "Latin": ["complaint", "praise", "question"],
    "German": ["Beschwerde", "Lob", "Rückfrage"],
    "Chinese": ["好评", "差评", "中性"],
    "Taiwan": ["好評", "負評", "中性"],
    "Japanese": ["良い", "悪い", "普通"],
    "Korean": ["긍정", "부정", "중립"],
    "Russian": ["жалоба", "похвала", "вопрос"],
    "Arabic": ["شكوى", "ثناء", "سؤال"],
    "Hindi": ["शिकायत", "प्रशंसा", "सवाल"],
}
UNSEEN: Final = ("\u200b", "\u200e", "\u2060", "\ufeff", "\u00ad", "\u202a")
CONTROLS: Final = ("\x01", "\x0b", "\x1c", "\x1f", "\x7f", "\x85", "\u2028", "\u2029")
"""Signs in a text that some readers end a line at; they are part of it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OddTexts:
    """A file; of every record its text, class and site, empty where there is none."""

    path: Path
    records: list[tuple[str, str, str]]
    names: tuple[str, str, str]
    lines: list[int]
    """On which line of the file each record begins."""
    alike: bool
    """Whether a class is there in two spellings that may be two."""
    ways: dict[str, Any]

    @property
    def usable(self) -> list[tuple[str, str, str]]:
        """The records that have a text and a class."""
        return [record for record in self.records if record[0] and record[1]]


def _sentence(rng: Rng, script: str) -> str:
    spaced = " " in WORDS[script]
    words = WORDS[script].split() if spaced else list(WORDS[script])
    chosen = rng.choice(np.array(words, object), int(rng.integers(8, 16) * (1 if spaced else 2)))
    return (" " if spaced else "").join(chosen)


def drawn(seed: int, folder: Path) -> OddTexts:
    """A file of that seed, written into the folder."""
    rng = np.random.default_rng(seed)
    script = str(rng.choice([*WORDS]))
    encoding = str(rng.choice(ENCODINGS[script]))
    wide = encoding.startswith("utf") or encoding == "gb18030"
    number = int(rng.integers(60, 110))
    classes = CLASSES[script][: rng.integers(2, 4)]
    texts = [f"{_sentence(rng, script)} {i}" for i in range(number)]
    labels = [classes[i % len(classes)] for i in range(number)]
    sites = [f"s{rng.integers(3)}" for _ in range(number)] if rng.random() < 0.5 else []
    if rng.random() < 0.4:
        for i in rng.choice(number, 3, replace=False):
            texts[i] = ""
    if rng.random() < 0.3:
        for i in rng.choice(number, 2, replace=False):
            labels[i] = ""
    lines_inside = bool(rng.random() < 0.3)
    signs = [*CONTROLS] if encoding.startswith("utf") else ["\x01", "\x7f"]
    for i in range(number):
        half = len(texts[i]) // 2
        if texts[i] and rng.random() < 0.15:
            inside = ['"', ",", ";", "\t", "'", "\\", "{", str(rng.choice(signs))]
            inside += ["\n", "\n\n"] if lines_inside else []
            texts[i] = texts[i][:half] + str(rng.choice(inside)) + texts[i][half:]
    alike = bool(rng.random() < 0.2) and classes[0].upper() != classes[0]
    if alike:
        first = next(i for i in range(number) if texts[i] and labels[i] == classes[0])
        labels[first] = classes[0].upper()
        labels.append(classes[0].upper())
        texts.append(f"{_sentence(rng, script)} {number}")
        sites += ["s0"] if sites else []
        number += 1
    ways = {"script": script, "encoding": encoding, "seed": seed}
    shown = [[_dressed(rng, cell, wide and encoding != "gb18030") for cell in column]
             for column in (texts, labels, sites)]  # fmt: skip
    names = (str(rng.choice(["text", "comment", "评论", "body"] if wide else ["text", "body"])),
             str(rng.choice(["label", "class", "sentiment"])), "hospital")  # fmt: skip
    right = [(unicodedata.normalize("NFC", t), c, s)
             for t, c, s in zip(texts, labels, sites or [""] * number, strict=True)]  # fmt: skip
    path, lines = _file(rng, folder, names, shown, encoding, ways)
    return OddTexts(path=path, records=right, names=names if sites else (*names[:2], ""),
                    lines=lines, alike=alike, ways=ways)  # fmt: skip


def _dressed(rng: Rng, text: str, wide: bool) -> str:
    """The text with what counts for nothing."""
    if rng.random() < 0.1:
        text = f" {text}  "
    if wide and text.strip() and rng.random() < 0.08:
        sign, place = str(rng.choice(UNSEEN)), int(rng.integers(0, len(text) + 1))
        text = text[:place] + sign + text[place:]
    return unicodedata.normalize("NFD", text) if wide and rng.random() < 0.05 else text


def _file(
    rng: Rng, folder: Path, names: tuple[str, ...], columns: list[list[str]], encoding: str,
    ways: dict[str, Any],
) -> tuple[Path, list[int]]:  # fmt: skip
    there = [name for name, column in zip(names, columns, strict=True) if column]
    rows = [*zip(*filter(None, columns), strict=True)]
    end = str(rng.choice(["\n", "\r\n", "\r"], p=[0.6, 0.3, 0.1]))
    ways["end"], ways["form"] = end, str(rng.choice(["csv", "jsonl"]))
    if ways["form"] == "jsonl":
        path = folder / f"odd{rng.choice(['.jsonl', '.JSONL', '.ndjson'])}"
        ascii_only = bool(rng.random() < 0.3)
        made, lines = [], []
        for row in rows:
            found: dict[str, Any] = dict(zip(there, row, strict=True))
            if not found[there[1]].strip() and rng.random() < 0.5:
                found[there[1]] = None
            if rng.random() < 0.1:
                made.append("")
            lines.append(len(made) + 1)
            made.append(json.dumps(found, ensure_ascii=ascii_only))
        path.write_bytes((end.join(made) + end).encode(encoding))
        return path, lines
    text = io.StringIO()
    separator = str(rng.choice([",", ";", "\t"]))
    # The writer quotes no line end but its own.
    quoting = csv.QUOTE_ALL if rng.random() < 0.3 or end == "\r" else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=end)
    writer.writerow(there)
    lines = []
    for row in rows:
        so_far = text.getvalue().replace("\r\n", "\n").replace("\r", "\n")
        lines.append(so_far.count("\n") + 1)
        writer.writerow(row)
    ways["separator"] = separator
    path = folder / str(rng.choice(["odd.csv", "odd.tsv", "odd.txt"]))
    path.write_bytes(text.getvalue().encode(encoding))
    return path, lines
