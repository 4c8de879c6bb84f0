"""Texts of many languages are read in the encoding that they were written in."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlearn.data.check.files import check
from fedlearn.data.tables.encodings import encoding_in

TEXTS = {
    "gb18030": "病人主诉咳嗽发热三天，既往有高血压病史，建议住院治疗观察。服务态度很好，值得一看。",
    "big5": "病人主訴咳嗽發熱三天，既往有高血壓病史，建議住院治療觀察。服務態度很好，值得一看。",
    "shift_jis": "患者は三日前から咳と発熱があり、高血圧の既往歴がある。入院して経過を観察する。",
    "euc_kr": "환자는 삼일 전부터 기침과 발열이 있으며 고혈압 병력이 있다. 입원 치료를 권장한다.",
    "cp1252": "Größe und Gewicht änderten sich; François était fatigué, señor Núñez también – ça.",
}


@pytest.mark.parametrize("encoding", TEXTS)
@given(data=st.data())
def test_encoding__is_found_from_a_few_words(encoding: str, data: st.DataObject) -> None:
    text = TEXTS[encoding]
    start = data.draw(st.integers(0, len(text) - 16))
    piece = text[start : start + data.draw(st.integers(16, 40))]
    content = f"age,note,ill\n40,{piece},yes\n".encode(encoding)
    found = encoding_in(content)
    if piece.isascii():
        assert found == "utf-8"
    else:
        assert content.decode(found) == content.decode(encoding)


@given(st.text(max_size=40))
def test_encoding__of_utf_8_is_utf_8(text: str) -> None:
    assert encoding_in(text.encode("utf-8", "replace")) in ("utf-8", "utf-16")


@pytest.mark.parametrize("encoding", [*TEXTS][:4])
def test_check__reads_a_table_in_an_east_asian_encoding(tmp_path: Path, encoding: str) -> None:
    path, words = tmp_path / "a.csv", TEXTS[encoding]
    names = words[2:4].strip() or "x", words[10:12].strip()
    rows = [
        f"{20 + i * i % 61},{words[i % 3 * 4 : i % 3 * 4 + 3]},{'yn'[i % 2]}" for i in range(60)
    ]
    path.write_bytes(("\n".join([f"{names[0]},{names[1]}w,ill", *rows])).encode(encoding))
    report = check(path)
    assert f"scenario.encoding={encoding}" in report.settings
    assert report.columns[0].name == names[0]
