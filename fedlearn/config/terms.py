"""What of a run's config its privacy may depend on: public, and the same at both ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedlearn.data.tables.scaling import reads_records
from fedlearn.mechanisms import StudyTerms
from fedlearn.secagg.settings import sum_of

if TYPE_CHECKING:
    from fedlearn.config import RunConfig


def terms_of(config: RunConfig) -> StudyTerms:
    """The terms of a run."""
    training, scaling = config.training, config.scenario.scales()
    summed = sum_of(config.secagg) is not None
    return StudyTerms(
        secagg=config.secagg.kind,
        summed=summed,
        hidden=config.secagg.hides,
        resolution=config.secagg.resolution,
        fraction=config.strategy.fraction,
        sample_rate=training.sample_rate,
        nominal_records=training.nominal_records,
        local_steps=training.local_steps,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        optimizer=training.optimizer,
        engine=training.dp_engine,
        precision=training.precision,
        scaling=scaling.kind if scaling and reads_records(scaling) else None,
        momentum=training.momentum,
        corrected=config.strategy.corrects or not config.stage.idle,
        remembers=config.remembers,
        step_share=config.robust.step_share if summed else None,
        change_norm=config.robust.change_norm if summed else None,
        pooled=config.partition.reads_site_files and config.partition.in_one_place(),
    )
