"""The flat images of MedMNIST v2 that have one label each, as their authors publish them.

Yang, Shi, Wei, Liu, Zhao, Ke, Pfister, Ni 2023, "MedMNIST v2 - A large-scale
lightweight benchmark for 2D and 3D biomedical image classification"; images
of 28 x 28, their official split, Zenodo record 10519652.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedlearn.core import yaml_file
from fedlearn.data.datasets.archives import Download

_ADDRESS = "https://zenodo.org/records/10519652/files/{name}.npz?download=1"


@dataclass(frozen=True, kw_only=True)
class KnownSet:
    """A set that can be fetched; `records` counts training, validation and test images."""

    file: Download
    records: tuple[int, int, int]
    classes: tuple[str, ...]


def _known(
    name: str, md5: str, records: list[int], classes: list[str], licence: str = "CC BY 4.0"
) -> KnownSet:
    train, val, test = records
    address = _ADDRESS.format(name=name)
    file = Download(name=name, address=address, file_name=f"{name}.npz", md5=md5, licence=licence)
    return KnownSet(file=file, records=(train, val, test), classes=tuple(classes))


SETS: Mapping[str, KnownSet] = {
    name: _known(name, **known)
    for name, known in yaml_file.read(Path(__file__).with_name("medmnist_sets.yaml")).items()
}
"""By name."""
