"""What a parent may have been trained on top of, where files leave out what is as always."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedlearn.config.parent import parent_of
from fedlearn.core.errors import ConfigError

LORA = {"mode": "lora", "lora_rank": 4}


@pytest.mark.parametrize(
    ("key", "value", "usual"),
    [
        ("lora_start", "whitened", "drawn"),
        ("lora_frozen_a", True, False),
        ("lora_layers", ["v_proj"], []),
    ],
)
def test_parent__with_other_frozen_factors_is_refused_whichever_side_leaves_the_setting_out(
    tmp_path: Path, key: str, value: object, usual: object
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    for theirs, mine in (({key: value}, {}), ({}, {key: value})):
        export = {"finetune": {**LORA, **theirs}, "model": {"kind": "huggingface"}}
        about = {"scenario": {"kind": "drafting"}, "seed": 0, "run_id": "", "privacy": None}
        (tmp_path / "model.json").write_text(json.dumps({**export, **about}))
        own: dict[str, Any] = {"finetune": "lora", "lora_rank": 4, **mine}
        config = {"training": own, "model": export["model"], "scenario": {"kind": "x"}, "seed": 0}
        with pytest.raises(ConfigError, match=f"was trained with training.{key}="):
            parent_of(str(tmp_path), config)
        parent_of(str(tmp_path), {**config, "training": {**own, key: theirs.get(key, usual)}})
