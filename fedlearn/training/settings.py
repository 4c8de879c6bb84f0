"""How a site trains between two rounds."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from fedlearn.core.settings import (
    Count,
    Name,
    Natural,
    NonNegative,
    Portion,
    Positive,
    Rate,
    config,
)
from fedlearn.models.finetune import Finetune, Mode, Start
from fedlearn.training.device import Device

Precision = Literal["fp32", "bf16"]
Engine = Literal["fast", "opacus"]
Keep = Literal["last", "best"]
Own = Literal["none", "head", "norm"]


@config
class Training:
    """Local training: the same keys with and without privacy, so that runs compare.

    A round is `local_steps` optimiser steps, each on a batch that holds
    `sample_rate` of the site's records. With `privacy=none` batches come from
    shuffled passes over the records; under record-level privacy each record
    enters each batch by an independent secret coin (Poisson sampling), and the
    clipped sum is divided by `sample_rate * nominal_records`, all of which are
    public constants: nothing about the number of records of a site is used.
    """

    optimizer: Literal["sgd", "adam"]
    learning_rate: Positive
    momentum: Portion
    weight_decay: NonNegative
    local_steps: Count
    sample_rate: Rate
    nominal_records: Count
    """Public constant of the order of a site's size, in records or, where persons are protected, in
    persons: the scale of private gradient sums."""
    dp_engine: Engine
    """What computes gradients under record-level privacy: our one-pass engine, or Opacus' hooks, to
    the same result."""
    max_batch: Count
    """Most records in one forward pass; larger batches are accumulated exactly."""
    checkpointing: Annotated[bool, Field(exclude_if=lambda again: not again)] = False
    """Whether stages keep only what they read, and compute the rest again in the backward pass:
    the same gradients, for less memory and about a third more time."""
    precision: Precision = "fp32"
    """Of activations and matrix products in training; weights, norms, clipped sums, noise and
    evaluation stay in fp32."""
    device: Device = "auto"
    """Where sites compute; a site's own file may say otherwise of its machine."""
    class_weights: dict[str, Positive] = field(default_factory=dict)
    """Weight of the loss of a class, 1 where not named. Public numbers, as from a known
    prevalence, never from counting a site's records. Only ratios count: the largest becomes 1."""
    augmentations: Natural = 0
    """Random views of an image whose mean is its gradient, before it is clipped; 0: as it is."""
    flips: bool = True
    """Whether a view may be mirrored from left to right: not where that changes what it shows."""
    shifts: Natural = 2
    """By how many pixels a view may be shifted, in each direction."""
    average: Portion = 0.0
    """Decay of a running mean of the coordinator's models over rounds, which is tested and kept
    instead of the last one; 0: none. Computed from released models, so it costs no privacy."""
    keep: Annotated[Keep, Field(exclude_if=lambda which: which == "last")] = "last"
    """Which round's model is tested and kept: the last, or the best by validation records."""
    patience: Annotated[Natural, Field(exclude_if=lambda count: count == 0)] = 0
    """Validations in a row that find no better model, after which the run ends; 0: it never does.
    Noise is planned for all rounds, and what a run promises stays that of all of them."""
    personal: Annotated[Own, Field(exclude_if=lambda own: own == "none")] = "none"
    """What of a model stays with its owner: nothing, the head, or the layers that normalise. It is
    trained in the same steps as the rest, and no change of it leaves the site."""
    finetune: Mode = "full"
    """What is trained, sent, clipped and counted: the whole model, its head, or its last stages."""
    last_k: Count = 1
    """With `finetune=last_k`: how many of the stages that have parameters are trained."""
    lora_rank: Count = 8
    """With `finetune=lora`: rank of the change of a linear layer."""
    lora_alpha: Positive = 16.0
    """With `finetune=lora`: the change is scaled by this over the rank."""
    lora_stages: Natural = 0
    """With `finetune=lora`: how many of the last stages before the head get adapters; 0: all."""
    lora_layers: Annotated[tuple[Name, ...], Field(exclude_if=lambda names: not names)] = ()
    """With `finetune=lora`: the layers of a stage that get adapters, by the ends of their names
    (`q_proj`, `v_proj`); none named: all linear ones."""
    lora_frozen_a: Annotated[bool, Field(exclude_if=lambda frozen: not frozen)] = False
    """With `finetune=lora`: whether the first factor of an adapter stays as it started, so that
    the mean over sites is exact and half as many numbers have noise."""
    lora_start: Annotated[Start, Field(exclude_if=lambda start: start == "drawn")] = "drawn"
    """With `finetune=lora`: how the first factor of an adapter starts: `drawn`, or so that it
    weighs evenly what its layer reads (`fedlearn.models.whitening`), for texts."""

    @property
    def trained_part(self) -> Finetune:
        """The choice of `finetune` with what belongs to it."""
        return Finetune(
            mode=self.finetune,
            last_k=self.last_k,
            lora_rank=self.lora_rank,
            lora_alpha=self.lora_alpha,
            lora_stages=self.lora_stages,
            lora_layers=self.lora_layers,
            lora_frozen_a=self.lora_frozen_a,
            lora_start=self.lora_start,
        )
