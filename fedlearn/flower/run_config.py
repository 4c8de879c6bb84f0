"""A run's config inside Flower's own run config."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from flwr.app import Context

from fedlearn.config import RunConfig, compose, decode, encode


def config_of(context: Context) -> RunConfig:
    """The run's config from Flower's run config: `config` (JSON), or else `overrides` (Hydra)."""
    values = context.run_config
    text, overrides = str(values.get("config", "")), str(values.get("overrides", ""))
    return _config_of(text, overrides, context.run_id)


@lru_cache(maxsize=8)
def _config_of(text: str, overrides: str, run_id: int) -> RunConfig:
    if text:
        return decode(RunConfig, text)
    config = compose(overrides.split())
    # Under `flwr run` every process has a working folder of Flower's choice.
    named = any(override.startswith("out=") for override in overrides.split())
    out = Path(config.out if named else f"fedlearn-runs/{config.experiment}-{run_id}")
    return replace(config, out=str(Path.home() / out))


def run_config_of(config: RunConfig) -> dict[str, bool | float | int | str]:
    """Flower's run config that carries `config`; `config_of` reads it back."""
    return {"config": encode(config), "overrides": ""}
