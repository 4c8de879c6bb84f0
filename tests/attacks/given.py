"""Files that somebody else has made, as parsers: runs, models with their weights, saved data."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from safetensors.numpy import load_file as load_tensors
from safetensors.numpy import save_file

from clients import app_owner
from fedlearn import prediction
from fedlearn.cli import main
from fedlearn.config.saved import load_file
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Layout
from fedlearn.data.check.files import check
from fedlearn.data.scenario import Reading
from fedlearn.data.tables.csv import Csv
from fedlearn.data.texts.folders import FolderTexts
from fedlearn.data.texts.huggingface import HuggingFace
from fedlearn.data.texts.language import LanguageTokens
from fedlearn.data.texts.passages import OwnPassages
from fedlearn.data.texts.pieces import pieces_of
from fedlearn.data.texts.tokens import Tokenizer, tokenize
from fedlearn.models.folders import open_folder
from fedlearn.models.text import Text, bert_weights
from fedlearn.report.comparison import (
    Comparison,
    SweepPlan,
    point_result,
    read_comparison,
    write_comparison,
)
from fedlearn.report.export import export
from fedlearn.report.inversion import read_inversion, write_inversion
from fedlearn.report.made_smaller import read_costs
from fedlearn.report.page import write_report
from fedlearn.results.reading import read_result, task_of
from fedlearn.results.statistics import read_statistics, words_of, write_statistics
from fedlearn.tasks import CLASSIFICATION
from server.parent import first_model
from tests.attacks.fuzzing import Parser
from tests.fedlearn.report.test_strip import shown
from tests.model_folders import text_folder

Folder = Callable[[Path], Path]
"""Makes a folder with everything as it should be."""


@cache
def _once(make: Folder, root: Path) -> Path:
    made = make(root / make.__name__)
    shutil.copytree(made, made.with_name(f"{made.name}-good"))
    return made


def _inside(
    name: str, make: Folder, file: str, read: Callable[[Path], object], *also: type[Exception]
) -> Parser:
    """A reader of a folder in which one file is damaged."""

    def good(folder: Path) -> bytes:
        made = _once(make, folder.parent)
        return (made.with_name(f"{made.name}-good") / file).read_bytes()

    def damaged(data: bytes, folder: Path) -> object:
        made = _once(make, folder.parent)
        try:
            (made / file).write_bytes(data)
            return read(made)
        finally:
            (made / file).write_bytes(good(folder))

    return Parser(name, good, damaged, (DataError, *also))


def run(root: Path) -> Path:
    """The folder of a private run of two sites."""
    root.mkdir()
    rows = [f"{30 + 7 * i % 40},{'yes' if i % 3 else 'no'},{i % 2},{i % 5 % 2}" for i in range(80)]
    (root / "my.csv").write_text("\n".join(["age,smoker,hospital,ill", *rows]))
    out = root / "run"
    words = ("scenario=csv", f"scenario.path={root / 'my.csv'}", "scenario.label=ill",
             "scenario.site=hospital", "secagg=off", "model.architecture=mlp", "rounds=2",
             "privacy.delta=1e-3", f"out={out}")  # fmt: skip
    assert main(["simulate", *words]) == 0
    plan = SweepPlan(name="a", overrides=(), swept={}, reference=None, site=None)
    write_comparison(out, Comparison(points=[point_result(plan, read_result(out))]))
    return out


def exported(root: Path) -> Path:
    """The model of such a run, for whoever wants to use it."""
    assert main(["export", str(_once(run, root.parent)), f"--to={root}"]) == 0
    return root


def in_eight_bits(root: Path) -> Path:
    """The same in eight bits, with what that costs."""
    words = ["--to", "int8", "--folder", str(root)]
    assert main(["export", str(_once(run, root.parent)), *words]) == 0
    return root


def figures(root: Path) -> Path:
    """The folder of a run that made a table of figures."""
    table = _once(run, root.parent).parent / "my.csv"
    words = ("scenario=csv", f"scenario.path={table}", "scenario.label=ill",
             "scenario.site=hospital", "secagg=off", "model.architecture=mlp", "privacy.delta=1e-3",
             "+scenario.scaling.columns.age=[20,80]", f"out={root}")  # fmt: skip
    assert main(["statistics", *words]) == 0
    return root


def _tabled(folder: Path) -> object:
    """The page of such a run, and its files once more."""
    (folder / "again").mkdir(exist_ok=True)
    write_statistics(folder / "again", read_statistics(folder))
    return write_report(folder)


def _begun(folder: Path) -> object:
    """What a run takes over that begins from a folder."""
    whole = folder if folder.name == "run" else _once(run, folder.parent)
    trained = whole.with_name(f"{whole.name}-good")
    config = load_file(trained / "config.yaml", [f"init={folder}", f"out={folder}-child"])
    tensors = load_tensors(trained / "model.safetensors")
    layout = Layout(tuple((name, tuple(one.shape)) for name, one in tensors.items()))
    task = task_of(read_result(trained))
    return first_model(config, task, layout, np.zeros(layout.size, np.float32))


_PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(40))]
_BERT = Text(pretrained="", width=8, depth=1, heads=2, words=False, sketch=0, dropout=0.0)


def bert(root: Path) -> Path:
    """A folder with a small BERT, as Hugging Face lays one out."""
    block = {
        **{f"attention.self.{name}": (8, 8) for name in ("query", "key", "value")},
        "attention.output.dense": (8, 8), "attention.output.LayerNorm": (8,),
        "intermediate.dense": (32, 8), "output.dense": (8, 32), "output.LayerNorm": (8,),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(_PIECES), 8),
        "embeddings.position_embeddings.weight": (512, 8),
        "embeddings.token_type_embeddings.weight": (2, 8),
    }
    layers = {"embeddings.LayerNorm": (8,)}
    layers |= {f"encoder.layer.0.{name}": shape for name, shape in block.items()}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    root.mkdir()
    save_file({n: np.ones(s, np.float32) for n, s in shapes.items()}, root / "model.safetensors")
    about = {
        "model_type": "bert", "vocab_size": len(_PIECES), "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 32, "hidden_act": "gelu",
        "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "type_vocab_size": 2,
    }  # fmt: skip
    (root / "config.json").write_text(json.dumps(about))
    (root / "vocab.txt").write_text("\n".join(_PIECES))
    (root / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    return root


def own_bert(root: Path) -> Path:
    """The same with a tokenizer.json, which is read in the place of its list."""
    bert(root)
    pieces_of(str(root), root)._tokenizer.save(str(root / "tokenizer.json"))
    return root


def _weights(folder: Path) -> object:
    config = Text(**{**vars(_BERT), "pretrained": str(folder)})
    return bert_weights(config, folder)


def _tokens(folder: Path) -> object:
    return tokenize(Tokenizer(vocabulary=str(folder), max_length=16), ["w1 w2"], folder)


def language(root: Path) -> Path:
    """A folder with a small language model, in two parts, and conversations to tune it with."""
    text_folder(root)
    parts = {"words": "a.safetensors", "norm": "b.safetensors"}
    for name, part in parts.items():
        save_file({name: np.ones(4, np.float32)}, root / part)
    (root / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    (root / "README.md").write_text("---\nlicense: mit\n---\n")
    rows = [{"messages": turns}, {"prompt": "a", "completion": "b"}, {"text": "c"}] * 4
    (root / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def _weighed(folder: Path) -> object:
    found = open_folder(str(folder), folder)
    return {name: found.tensors[name].sum() for name in found.tensors}


def _licensed(folder: Path) -> object:
    return FolderTexts(str(folder), folder, "folder").licence


def _conversed(folder: Path) -> object:
    tokens = LanguageTokens(folder=str(folder), max_length=16)
    config = OwnPassages(path=str(folder / "own.jsonl"), tokenizer=tokens)
    return config.load(Reading(streams=Streams(0), cache=folder))


def saved(root: Path) -> Path:
    """A data set as Hugging Face's `datasets` saves one, with a test of its own."""
    for part in ("train", "test"):
        folder = root / part
        folder.mkdir(parents=True)
        table = pa.table({"text": [f"text {i}" for i in range(12)], "label": [0, 1] * 6})
        path = str(folder / "data-0.arrow")
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
        state = {"_data_files": [{"filename": "data-0.arrow"}]}
        (folder / "state.json").write_text(json.dumps(state))
        feature = {"names": ["against", "for"], "_type": "ClassLabel"}
        (folder / "dataset_info.json").write_text(json.dumps({"features": {"label": feature}}))
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    return root


def _pool(folder: Path) -> object:
    words = Tokenizer(kind="hashing", buckets=1000, max_length=8)
    reading = Reading(streams=Streams(0), cache=folder, task=CLASSIFICATION)
    return HuggingFace(path=str(folder), tokenizer=words).load(reading)


def demonstrated(root: Path) -> Path:
    """What a demonstration of an attack has left: images in a file."""
    root.mkdir()
    write_inversion(root, shown())
    return root


def _images(folder: Path) -> object:
    found = read_inversion(folder)
    return found and [found.uri(text) for text in (found.original, found.average.image)]


def checked(root: Path) -> Path:
    """Data of every kind that an owner may have looked at: tables, texts, images."""
    root.mkdir()
    rows = [
        f"{i},{'ab'[i % 2]},2026-01-{i % 28 + 1:02d},{20 + i},pati\u00eant {i}" for i in range(40)
    ]
    table = "\n".join(["id,ill,day,age,note", *rows])
    (root / "t.csv").write_text(table, encoding="cp1252")
    (root / "z.csv").write_bytes(gzip.compress(table.encode()))
    pq.write_table(pa.table({"age": range(40), "ill": [0, 1] * 20}), root / "t.parquet")
    lines = [json.dumps({"text": f"words {i}", "label": "ab"[i % 2]}) for i in range(20)]
    (root / "t.jsonl").write_text("\n".join(lines))
    asked = [json.dumps({"prompt": f"ask {i}", "completion": "reply"}) for i in range(20)]
    (root / "asked.jsonl").write_text("\n".join(asked))
    images = {"images": np.zeros((4, 8, 8), np.uint8), "labels": np.array([[0], [1]] * 2)}
    parts = {f"{part}_{name}": v for part in ("train", "test") for name, v in images.items()}
    np.savez(root / "t.npz", **parts)
    for label in "ab":
        (root / "folders" / label).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(images["images"][0]).save(root / "folders" / label / f"{number}.png")
    return root


def _checked(file: str, shown: str = "") -> Parser:
    return _inside(
        f"looked at {file}", checked, file, lambda folder: check(folder / (shown or file))
    )


def series(root: Path) -> Path:
    """Rows of people over time, by dates."""
    root.mkdir()
    rows = [f"p{i % 9},2026-01-{i % 28 + 1:02d},{60 + i * i % 31},{i % 9 % 2}" for i in range(60)]
    (root / "s.csv").write_text("\n".join(["who,day,pulse,ill", *rows]))
    return root


def _over_time(folder: Path) -> object:
    config = Csv(path=str(folder / "s.csv"), label="ill", record="who", time="day", steps=4)
    return config.load(Reading(streams=Streams(0), cache=folder, task=CLASSIFICATION))


def odd(root: Path) -> Path:
    """Saved data with a text that is none, and a day that no calendar has."""
    root.mkdir()
    text = pa.array([b"\xff\xfe", b"words"] * 6).view(pa.string())
    table = pa.table({"text": text, "label": [0, 1] * 6})
    path = str(root / "data-0.arrow")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    (root / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-0.arrow"}]}))
    feature = {"names": ["against", "for"], "_type": "ClassLabel"}
    (root / "dataset_info.json").write_text(json.dumps({"features": {"label": feature}}))
    return root


def _odd_pool(folder: Path) -> object:
    words = Tokenizer(kind="hashing", buckets=1000, max_length=8)
    config = HuggingFace(path=str(folder), tokenizer=words, classes=("against", "for"))
    return config.load(Reading(streams=Streams(0), cache=folder, by_record=True))


def _exported_anew(folder: Path) -> object:
    to = folder / "exported"
    shutil.rmtree(to, ignore_errors=True)
    return export(folder, to)


_APP_SITE = b"name: a\ndata: d\nledger: l\npolicy: {epsilon_total: 8}\nkeys: k\nroster: r\n"


def app_site(root: Path) -> Path:
    """The file of an owner in a Flower app of somebody's own."""
    root.mkdir()
    (root / "site.yaml").write_bytes(_APP_SITE)
    return root


GIVEN = [
    _inside("result", run, "result.json", read_result),
    _inside("report", run, "result.json", write_report),
    _inside("statistics", figures, "statistics.json", _tabled, ConfigError),
    _inside("columns of statistics", figures, "statistics.yaml",
            lambda f: words_of(f / "statistics.yaml"), ConfigError),
    _inside("comparison", run, "compare.json", read_comparison),
    _inside("config file", run, "config.yaml", lambda f: load_file(f / "config.yaml", []),
            ConfigError),
    _inside("parent's result", run, "result.json", _begun, ConfigError),
    _inside("parent's weights", run, "model.safetensors", _begun, ConfigError),
    _inside("parent's model file", exported, "model.json", _begun, ConfigError),
    _inside("model file", exported, "model.json", prediction.load, ConfigError),
    _inside("model's values", exported, "model.safetensors", prediction.load),
    _inside("eight bits", in_eight_bits, "model.safetensors", prediction.load),
    _inside("eight bits' model file", in_eight_bits, "model.json", prediction.load, ConfigError),
    _inside("costs", in_eight_bits, "costs.json", read_costs),
    _inside("BERT's sizes", bert, "config.json", _weights, ConfigError),
    _inside("BERT's weights", bert, "model.safetensors", _weights, ConfigError),
    _inside("vocabulary", bert, "vocab.txt", _tokens),
    _inside("tokenizer", bert, "tokenizer_config.json", _tokens),
    *(
        _inside(f"own {file}", own_bert, file, _tokens, ConfigError)
        for file in ("tokenizer.json", "tokenizer_config.json", "config.json")
    ),
    *(
        _inside(f"language {file}", language, file, read, ConfigError)
        for file, read in (
            ("config.json", _weighed), ("model.safetensors.index.json", _weighed),
            ("a.safetensors", _weighed), ("tokenizer.json", _conversed),
            ("tokenizer_config.json", _conversed), ("own.jsonl", _conversed),
            ("README.md", _licensed),
        )
    ),
    _inside("saved data", saved, "dataset_dict.json", _pool, ConfigError),
    _inside("saved files", saved, "train/state.json", _pool, ConfigError),
    _inside("saved classes", saved, "train/dataset_info.json", _pool, ConfigError),
    _inside("Arrow", saved, "train/data-0.arrow", _pool, ConfigError),
    _inside("demonstration", demonstrated, "inversion.json", _images),
    *map(_checked, ("t.csv", "z.csv", "t.parquet", "t.jsonl", "asked.jsonl", "t.npz")),
    _checked("folders/a/0.png", "folders"),
    _inside("series", series, "s.csv", _over_time, ConfigError),
    _inside("odd texts", odd, "data-0.arrow", _odd_pool, ConfigError),
    _inside("export of a result", run, "result.json", _exported_anew, ConfigError),
    _inside("export of a config", run, "config.yaml", _exported_anew, ConfigError),
    _inside("app's site file", app_site, "site.yaml",
            lambda f: app_owner.load(f / "site.yaml"), ConfigError),
]  # fmt: skip
