"""An encoder for search, tuned by sites under shared noise, and an index that it is asked by."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from fedlearn.cli import main
from fedlearn.core.errors import ConfigError
from fedlearn.report.page import write_report
from tests.encoders import save_encoder
from tests.simulations.test_language import run

pytestmark = pytest.mark.skipif(
    not find_spec("transformers") or not find_spec("peft"), reason="needs fedlearn[text]"
)


def lines(path: Path, *texts: str) -> Path:
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("text_cache")
def test_legal_precedents__runs_is_reported_exported_indexed_and_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, out = save_encoder("distilbert", tmp_path / "enc"), tmp_path / "run"
    found = run(out, "experiment=legal_precedents", f"model.folder={encoder}", "rounds=1",
                "scenario.tokenizer.max_length=16", "task.query_tokens=8")  # fmt: skip
    assert found["status"] == "finished"
    assert len(found["data"]["sites"]) == 18
    assert found["model"]["trainable"] == 16 * 16
    evaluate, before = found["final"]["evaluate"], found["final"]["uninformed"]
    assert evaluate.keys() == before.keys()
    assert evaluate["bm25_mrr"] == before["bm25_mrr"] == found["baseline"]["evaluate"]["mrr"]
    assert found["privacy"]["epsilon"] == pytest.approx(8, rel=0.01)
    page = write_report(out).read_text()
    assert "recall at 10" in page
    assert "BM25" in page
    export = tmp_path / "export"
    assert main(["export", str(out), "--to", str(export)]) == 0
    texts = ("the licence ends", "unaffable license!", "中国合同 " * 20, "", "the licence ends")
    documents = lines(tmp_path / "d.jsonl", *texts)
    for model, base in ((out, []), (export, ["--base", str(encoder)])):
        target = tmp_path / f"index-of-{model.name}"
        command = ["index", str(model), str(documents), "--to", str(target), *base]
        assert main(command) == 0
        assert main(command) == ConfigError.exit_code
        capsys.readouterr()
        assert main(["find", str(target), "unaffable license!", "--json", "--most", "2"]) == 0
        first, second = map(json.loads, capsys.readouterr().out.splitlines())
        assert first["score"] >= second["score"]
        assert {"ids", "score", "text"} == first.keys()
    assert main(["predict", str(out), str(documents)]) == ConfigError.exit_code
    assert "fedlearn index" in capsys.readouterr().err
    (tmp_path / "run" / "result.json").rename(tmp_path / "gone.json")
    assert main(["find", str(tmp_path / "index-of-run"), "the"]) != 0
    assert "run" in capsys.readouterr().err
