"""The flat images of MedMNIST v2 that have one label each, as their authors publish them.

Yang, Shi, Wei, Liu, Zhao, Ke, Pfister, Ni 2023, "MedMNIST v2 - A large-scale
lightweight benchmark for 2D and 3D biomedical image classification"; images
of 28 x 28, their official split, Zenodo record 10519652.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedlearn.data.datasets.archives import Download

_ADDRESS = "https://zenodo.org/records/10519652/files/{name}.npz?download=1"
_ORGANS = (
    "bladder; femur-left; femur-right; heart; kidney-left; kidney-right; liver; lung-left; "
    "lung-right; pancreas; spleen"
)


@dataclass(frozen=True, kw_only=True)
class KnownSet:
    """A set that can be fetched; `records` counts training, validation and test images."""

    file: Download
    records: tuple[int, int, int]
    classes: tuple[str, ...]


def _known(
    name: str, md5: str, records: tuple[int, int, int], classes: str, licence: str = "CC BY 4.0"
) -> KnownSet:
    address = _ADDRESS.format(name=name)
    file = Download(name=name, address=address, file_name=f"{name}.npz", md5=md5, licence=licence)
    return KnownSet(file=file, records=records, classes=tuple(classes.split("; ")))


SETS: Mapping[str, KnownSet] = {
    known.file.name: known
    for known in (
        _known(
            "bloodmnist",
            "7053d0359d879ad8a5505303e11de1dc",
            (11959, 1712, 3421),
            "basophil; eosinophil; erythroblast; immature granulocytes (myelocytes, "
            "metamyelocytes and promyelocytes); lymphocyte; monocyte; neutrophil; platelet",
        ),
        _known(
            "pneumoniamnist",
            "28209eda62fecd6e6a2d98b1501bb15f",
            (4708, 524, 624),
            "normal; pneumonia",
        ),
        _known(
            "breastmnist",
            "750601b1f35ba3300ea97c75c52ff8f6",
            (546, 78, 156),
            "malignant; normal, benign",
        ),
        _known(
            "dermamnist",
            "0744692d530f8e62ec473284d019b0c7",
            (7007, 1003, 2005),
            "actinic keratoses and intraepithelial carcinoma; basal cell carcinoma; benign "
            "keratosis-like lesions; dermatofibroma; melanoma; melanocytic nevi; vascular "
            "lesions",
            licence="CC BY-NC 4.0",
        ),
        _known(
            "octmnist",
            "c68d92d5b585d8d81f7112f81e2d0842",
            (97477, 10832, 1000),
            "choroidal neovascularization; diabetic macular edema; drusen; normal",
        ),
        _known("organamnist", "68e3f8846a6bd62f0c9bf841c0d9eacc", (34561, 6491, 17778), _ORGANS),
        _known("organcmnist", "b9ceb9546e10131b32923c5bbeaea2b1", (12975, 2392, 8216), _ORGANS),
        _known("organsmnist", "9ab87b696fb54e2a387ebe992d6ed5f1", (13932, 2452, 8827), _ORGANS),
        _known(
            "pathmnist",
            "a8b06965200029087d5bd730944a56c1",
            (89996, 10004, 7180),
            "adipose; background; debris; lymphocytes; mucus; smooth muscle; normal colon "
            "mucosa; cancer-associated stroma; colorectal adenocarcinoma epithelium",
        ),
        _known(
            "retinamnist", "bd4c0672f1bba3e3a89f0e4e876791e4", (1080, 120, 400), "0; 1; 2; 3; 4"
        ),
        _known(
            "tissuemnist",
            "ebe78ee8b05294063de985d821c1c34b",
            (165466, 23640, 47280),
            "Collecting Duct, Connecting Tubule; Distal Convoluted Tubule; Glomerular "
            "endothelial cells; Interstitial endothelial cells; Leukocytes; Podocytes; "
            "Proximal Tubule Segments; Thick Ascending Limb",
        ),
    )
}
"""By name; two of them come first because they are those most asked for."""
