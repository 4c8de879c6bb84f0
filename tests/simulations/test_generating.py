"""A tuned language model in use: `fedlearn generate` and exports for other tools, from a run."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import fedlearn as fl
from fedlearn.cli import main
from fedlearn.core import yaml_file
from fedlearn.core.names import harmless
from fedlearn.models.forms import merged_settings, merged_weights
from fedlearn.report.export import open_model
from fedlearn.report.forms import base_of
from tests.model_folders import tiny_model
from tests.simulations.test_language import adapters

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not find_spec("transformers") or not find_spec("peft"), reason="needs fedlearn[text]"
    ),
]
OF_PEFT = "ignore:.is_gradient_checkpointing:FutureWarning"
"""It calls an old name of transformers."""

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose base has a card with a licence."""
    place = tmp_path_factory.mktemp("runs")
    words = adapters(place)
    (place / "tiny" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    out = place / "run"
    assert main(["simulate", *words, "privacy=record", "secagg=off", "rounds=1",
                 "training.learning_rate=30", "task.prompts=['red 99: ','a *sign*']",
                 f"out={out}"]) == 0  # fmt: skip
    return out


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    target = run.with_name("model")
    assert main(["export", str(run), "--to", str(target)]) == 0
    return target


def test_generate__says_the_same_of_a_run_of_its_export_and_in_python(
    run: Path, exported: Path, capsys: Output
) -> None:
    words = ["--prompt", "red 3: ", "--max-tokens", "12", "--json"]
    assert main(["generate", str(run), *words]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert main(["generate", str(exported), "--base", str(run.with_name("tiny")), *words]) == 0
    assert json.loads(capsys.readouterr().out) == answer
    [found] = fl.load_run(run).generate("red 3: ", max_tokens=12)
    assert vars(found) == answer
    assert fl.generate(exported, "red 3: ", base=run.with_name("tiny"), max_tokens=12) == [found]
    assert answer["tokens"] == 12
    untuned = fl.load_run(run).generate("red 3: ", max_tokens=12, tuned=False)
    assert untuned != [found]


def test_generate__answers_a_file_of_prompts_line_by_line(
    run: Path, tmp_path: Path, capsys: Output
) -> None:
    file, to = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    file.write_text('{"prompt": "red 1: "}\n\n{"text": "It \\ud800"}\n')
    words = ["generate", str(run), "--file", str(file), "--samples", "2", "--temperature", "1",
             "--max-tokens", "4", "--json", "--to", str(to)]  # fmt: skip
    assert main(words) == 0
    found = [json.loads(line) for line in to.read_text().splitlines()]
    assert [(one["line"], one["sample"]) for one in found] == [(1, 0), (1, 1), (3, 0), (3, 1)]
    assert main([word for word in words[:-2] if word != "--json"]) == 0
    assert capsys.readouterr().out.startswith("> red 1:\n")


def test_generate__draws_nothing_on_a_terminal(run: Path, capsys: Output) -> None:
    for seed in range(4):
        assert main(["generate", str(run), "--prompt", "red", "--temperature", "4",
                     "--max-tokens", "60", "--seed", str(seed)]) == 0  # fmt: skip
        said = capsys.readouterr().out
        assert all(sign.isprintable() or sign == "\n" for sign in said)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "--prompt: give either prompts or a --file of them"),
        (["--prompt", "a", "--file", "b"], 2, "--prompt: give either"),
        (["--prompt", "a", "--top-k", "3", "--top-p", "2"], 2, "top_p=2.0: must be <= 1"),
        (["--prompt", "a", "--top-k", "3"], 2, "top_k=3: has no effect with temperature=0"),
        (["--prompt", "a", "--max-tokens", "9999"], 2, "max_tokens=9999: the model looks at 512"),
        (["--prompt", "<s>", "--as", "message"], 2, "--prompt: message 1 holds '<s>'"),
        (["--prompt", "a", "--base", "x"], 2, "is a run, which names its folder; leave it out"),
        (["--file", "nowhere.jsonl"], 5, "nowhere.jsonl"),
        (["--file", "x.jsonl", "--as", "text"], 2, "--as: goes with --prompt"),
        (["--prompt", "a", "--to", "/nowhere/x"], 2, "--to /nowhere/x: cannot be written"),
    ],
)
def test_generate__says_what_is_wrong(
    run: Path, words: list[str], code: int, said: str, capsys: Output
) -> None:
    assert main(["generate", str(run), *words]) == code
    complaint = " ".join(capsys.readouterr().err.split())
    assert said in complaint
    assert "Traceback" not in complaint


@pytest.mark.filterwarnings(OF_PEFT)
def test_export__to_peft_and_merged_are_what_the_run_says(run: Path, capsys: Output) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[40, 50, 60]])
    found = []
    for form in ("peft", "merged"):
        assert main(["export", str(run), "--to", form]) == 0
        folder = run.with_name(f"run-{form}")
        assert f"{folder / 'README.md'}" in capsys.readouterr().out
        base = AutoModelForCausalLM.from_pretrained(
            run.with_name("tiny") if form == "peft" else folder
        )
        model = PeftModel.from_pretrained(base, folder) if form == "peft" else base
        with torch.no_grad():
            found.append(model.eval()(ids).logits)
    with torch.no_grad():
        own = fl.load_run(run).model(ids).written_out()
    for logits in found:
        torch.testing.assert_close(logits, own, rtol=1e-5, atol=1e-5)


def test_export__has_a_page_with_base_licence_hash_and_epsilon(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    assert main(["export", str(run), "--to", "peft", "--folder", str(folder)]) == 0
    page = (folder / "README.md").read_text()
    front = yaml_file.parse(page.split("---\n")[1], "front")
    assert front == {"library_name": "peft", "pipeline_tag": "text-generation",
                     "base_model": "tiny", "license": "apache-2.0"}  # fmt: skip
    result = json.loads((run / "result.json").read_text())
    assert result["config"]["model"]["sha256"] in page
    assert result["model"]["sha256"] in page
    [epsilon] = re.findall(r"\nEpsilon ([\d.]+) at delta 1e-05, at the site", page)
    assert 0 <= float(epsilon) - result["privacy"]["epsilon"] < 0.001
    assert str(run.parent) not in page + (folder / "adapter_config.json").read_text()
    assert (folder / "privacy_statement.md").is_file()


def test_card__shows_answers_to_public_prompts_before_and_after(run: Path, exported: Path) -> None:
    card = (exported / "model_card.md").read_text()
    shown = card.split("## What it writes\n")[1].split("\n## ")[0]
    assert r"**a \*sign\***" in shown
    result = fl.load_run(run)
    for tuned, name in ((False, "Before"), (True, "After")):
        [answer] = result.generate("red 99: ", max_tokens=48, tuned=tuned)
        part = shown.split("**red 99: **")[1].split(f"{name}:\n\n")[1].split("\n\n")[0]
        lines = "\n".join(line.removeprefix("    ") for line in part.splitlines())
        assert lines == harmless(answer.text).strip()


def test_export__to_int8_needs_no_base_and_says_what_it_costs(
    run: Path, tmp_path: Path, capsys: Output
) -> None:
    """Against transformers' own model, with weights that are rounded row by row here."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    folder = tmp_path / "law model"
    assert main(["export", str(run), "--to", "int8", "--folder", str(folder)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "It does worst at" in said
    assert "note:" not in said
    moved = folder.rename(tmp_path / "moved")
    [answer] = fl.generate(moved, "red 3: ", max_tokens=12)
    opened = open_model(run)
    base = base_of(opened, "merged")
    assert base is not None
    # Copies: the weights of the base are shared by all models of the process.
    weights = {n: w.clone() for n, w in merged_weights(opened.network, base).items()}
    for weight in weights.values():
        for row in weight if weight.ndim > 1 else ():
            step = float(row.abs().max()) / 127
            row.copy_((row / step).round() * step if step else row)
    theirs = AutoModelForCausalLM.from_config(LlamaConfig.from_dict(merged_settings(base)))
    theirs.load_state_dict(weights, strict=False)
    with torch.no_grad():
        wanted = theirs.eval()(torch.tensor([[40, 50, 60]])).logits
        found = open_model(moved).network(torch.tensor([[40, 50, 60]])).written_out()
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    assert answer.tokens == 12
    costs = json.loads((moved / "costs.json").read_text())
    assert costs["held"]["licence"] == "apache-2.0"
    assert "whose licence is apache-2.0" in (moved / "model_card.md").read_text()
    metric = json.loads((run / "result.json").read_text())["final"]["evaluate"]
    assert costs["weighed"]["all_sites"]["before"] == pytest.approx(metric, rel=1e-4)
    assert str(run.parent) not in (moved / "model.json").read_text()


def test_export__to_onnx_answers_as_the_run_does(run: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs fedlearn[onnx]")
    pytest.importorskip("onnxscript", reason="needs fedlearn[onnx]")
    folder = tmp_path / "graph"
    assert main(["export", str(run), "--to", "onnx", "--folder", str(folder)]) == 0
    takes = json.loads((folder / "onnx.json").read_text())
    assert takes["takes"] == ["batch", "length"]
    assert takes["gives"] == ["batch", "length", 259]
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    network = fl.load_run(run).model
    for shape in ((1, 7), (4, 24), (7, 2)):
        ids = torch.randint(259, shape, generator=torch.Generator().manual_seed(shape[1]))
        [found] = session.run(None, {"records": ids.numpy()})
        with torch.no_grad():
            wanted = network(ids).written_out()
        torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-4)
    page = (folder / "README.md").read_text()
    assert "library_name: onnx" in page
    assert (folder / "tokenizer.json").is_file()
    assert str(run.parent) not in page + (folder / "onnx.json").read_text()


def test_export__of_a_form_leaves_nothing_where_it_fails(
    run: Path, tmp_path: Path, capsys: Output
) -> None:
    from shutil import copytree

    copy = copytree(run, tmp_path / "copy")
    text = (copy / "result.json").read_text().replace(str(run.with_name("tiny")), "/nowhere")
    (copy / "result.json").write_text(text)
    assert main(["export", str(copy), "--to", "merged"]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_export__refuses_a_folder_beside_a_folder(run: Path, capsys: Output) -> None:
    assert main(["export", str(run), "--to", "x", "--folder", "y"]) == 2
    assert "--folder: goes with --to peft" in capsys.readouterr().err


def test_generate__of_another_base_is_refused(
    exported: Path, tmp_path: Path, capsys: Output
) -> None:
    other = tiny_model(tmp_path / "other", seed=3)
    assert main(["generate", str(exported), "--prompt", "a", "--base", str(other)]) == 2
    assert "are others here" in capsys.readouterr().err


def test_distill__has_a_smaller_language_model_say_what_its_teacher_says(
    run: Path, tmp_path: Path, capsys: Output
) -> None:
    """A student of two blocks of the teacher's four, of the same tokenizer."""
    small = tiny_model(tmp_path / "small", seed=8, num_hidden_layers=2)
    public, to = tmp_path / "public.jsonl", tmp_path / "student"
    colours = ("red", "blue", "green", "white")
    rows = [{"prompt": f"{colours[i % 4]} {i}: ", "completion": f"is {i}"} for i in range(200, 260)]
    public.write_text("\n".join(map(json.dumps, rows)))
    words = ["distill", str(run), "--data", str(public), "--to", str(to), f"model.folder={small}"]
    assert main([*words, "training.finetune=last_k", "training.last_k=2", "--steps", "60"]) == 0
    told = capsys.readouterr().err
    [(before, after)] = re.findall(r"public records: ([\d.]+) before, ([\d.]+) after", told)
    assert float(after) < 0.75 * float(before)
    costs = json.loads((to / "costs.json").read_text())
    assert costs["metric"] == "nats_per_token"
    assert costs["learned"]["records"] == 60
    assert main(["generate", str(to), "--prompt", "red 3: ", "--base", str(small)]) == 0
    assert str(tmp_path) not in (to / "model.json").read_text()


def test_distill__of_another_tokenizer_is_refused(
    run: Path, tmp_path: Path, capsys: Output
) -> None:
    from tests.model_folders import byte_tokenizer

    small = tiny_model(tmp_path / "small", seed=8, num_hidden_layers=2)
    byte_tokenizer("<s>", "</s>", "<pad>").save(str(small / "tokenizer.json"))
    public = tmp_path / "public.jsonl"
    public.write_text('{"prompt": "a", "completion": "b"}')
    to = tmp_path / "student"
    words = ["distill", str(run), "--data", str(public), "--to", str(to), f"model.folder={small}"]
    assert main(words) == 2
    assert "tokenizer" in capsys.readouterr().err
    assert not to.exists()
