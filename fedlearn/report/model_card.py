"""What a model card says, from a run's result alone: for a board, not for an engineer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from markupsafe import Markup

from fedlearn.core import yaml_file
from fedlearn.report.calibration import in_words
from fedlearn.report.documents import code_block
from fedlearn.report.intended_use import limits, use
from fedlearn.results.result import Environment, Result

MEANINGS: Final = {
    "accuracy": "the share of test records that the model classifies rightly",
    "balanced_accuracy": "accuracy in each class by itself, averaged: a rare class counts as much "
    "as a common one",
    "macro_f1": "per class, the harmonic mean of how many of its records are found and how many "
    "of those found are right, averaged over the classes",
    "auc": "the chance that a record of the second class is ranked above one of the first; "
    "0.5 is guessing",
    "loss": "how surprised the model is by the true answers; lower is better",
}

_STATUS: Final = {
    "stopped_budget": "The run was stopped because a privacy budget or a site's policy refused: ",
    "interrupted": "The run was stopped by its user before its end: ",
    "failed": "The run failed before its end: ",
}


@dataclass(frozen=True, kw_only=True)
class SiteRow:
    """Records of a site."""

    name: str
    train: str
    test: str


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """Metrics of a site, or of all of them."""

    site: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A line of the provenance."""

    name: str
    value: str


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The contents of `model_card.md`, in the order of the page."""

    title: str
    what: str
    warning: str
    data_name: str
    train_total: str
    test_total: str
    sites: tuple[SiteRow, ...]
    training: tuple[str, ...]
    metric_names: tuple[str, ...]
    metrics: tuple[MetricRow, ...]
    worst: str
    metric_meanings: tuple[str, ...]
    calibration: str
    use: tuple[str, ...]
    limits: tuple[str, ...]
    provenance: tuple[Fact, ...]
    settings: Markup


def model_card(result: Result, hashes: tuple[Fact, ...]) -> ModelCard:
    """The card of a run; `hashes` are those of the files that it was made from."""
    sizes = result.data.sites
    names = _metric_names(result)
    return ModelCard(
        title=str(result.config["experiment"]),
        what=_what(result),
        warning=_warning(result),
        data_name=result.data.name,
        train_total=f"{sum(size.train for size in sizes.values()):,}",
        test_total=f"{sum(size.test for size in sizes.values()):,}",
        sites=tuple(
            SiteRow(name=site, train=f"{size.train:,}", test=f"{size.test:,}")
            for site, size in sizes.items()
        ),
        training=_training(result),
        metric_names=names,
        metrics=_metrics(result, names),
        worst=_worst(result),
        metric_meanings=tuple(f"{n}: {MEANINGS[n]}." for n in names if n in MEANINGS),
        calibration=in_words(result),
        use=use(result),
        limits=limits(result),
        provenance=(*_provenance(result), *hashes),
        settings=code_block(yaml_file.dump(public_settings(result.config))),
    )


def public_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The config without what only says where things lay on the machine of the run."""

    def cut(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: cut(child) for key, child in node.items()}
        if isinstance(node, list):
            return [cut(child) for child in node]
        if isinstance(node, str) and PurePath(node).is_absolute():
            return PurePath(node).name
        return node

    return {key: cut(value) for key, value in config.items() if key not in ("out", "resume")}


def _what(result: Result) -> str:
    model, sites = result.model, len(result.data.sites)
    kind = " ".join(
        str(part) for part in (model.name, result.config["model"].get("architecture")) if part
    )
    return (
        f"A classifier ({kind}, {model.parameters:,} parameters, of which {model.trainable:,} were "
        f"trained and are shared) learned from the records of {sites} sites by federated learning: "
        "sites send changes to the model to a coordinator, and keep their records."
    )


def _warning(result: Result) -> str:
    if result.status == "finished":
        return ""
    done, planned = len(result.rounds), result.config["rounds"]
    reason = f" Reason: {result.reason}" if result.reason else ""
    return (
        f"{_STATUS[result.status]}{done} of {planned} rounds were done, and this is the model "
        f"after the last of them.{reason}"
    )


def _training(result: Result) -> tuple[str, ...]:
    config, training = result.config, result.config["training"]
    lines = [
        f"{len(result.rounds)} rounds of {config['rounds']} planned. In each, every site that took "
        f"part trained on its own records (steps: {training['local_steps']}, optimizer: "
        f"{training['optimizer']}, learning rate: {training['learning_rate']:g}), and the "
        f"coordinator combined the results by {config['strategy']['kind']}.",
        *_special(training),
        _attendance(result),
        _privacy(result),
    ]
    return tuple(lines)


def _special(training: Mapping[str, Any]) -> Iterator[str]:
    """What of the training most runs do not have; a run of an older release says nothing of it."""
    if views := training.get("augmentations"):
        yield (
            f"A picture's gradient was the mean over {views} random views of it, shifted by up to "
            f"{training['shifts']} pixels{' or mirrored' if training['flips'] else ''}."
        )
    if weights := training.get("class_weights"):
        listed = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
        yield (
            f"Classes weighed differently in training ({listed}, any other 1): probabilities are "
            "those of such a mixture, not of how common the classes are."
        )
    if decay := training.get("average"):
        yield f"The model is a running mean over the rounds (decay {decay:g}), not the last model."


def _attendance(result: Result) -> str:
    missed: dict[str, int] = {}
    for entry in result.rounds:
        for site in entry.clients.dropped:
            missed[site] = missed.get(site, 0) + 1
    if not missed:
        return "Every site that was invited to a round took part in it."
    listed = ", ".join(f"{site} in {count}" for site, count in sorted(missed.items()))
    return f"Rounds in which a site was invited and is missing: {listed}."


def _privacy(result: Result) -> str:
    privacy = result.privacy
    if privacy.epsilon is None:
        return "No differential privacy is claimed."
    parts = {
        "noise multiplier": privacy.noise_multiplier,
        "clip norm": privacy.clip_norm,
        "sampling": privacy.sampling,
    }
    listed = ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)
    return (
        f"Differential privacy for every {privacy.unit}: {listed}. What that amounts to is in the "
        "privacy statement."
    )


def _metric_names(result: Result) -> tuple[str, ...]:
    found = [*result.final.evaluate, *(n for m in result.final.per_site.values() for n in m)]
    return tuple(dict.fromkeys(found))


def _metrics(result: Result, names: tuple[str, ...]) -> tuple[MetricRow, ...]:
    rows = [*result.final.per_site.items()]
    if result.final.evaluate:
        rows.append(("all sites together", result.final.evaluate))
    return tuple(
        MetricRow(
            site=f"{site} (lowest accuracy)" if site == result.final.worst_site else site,
            values=tuple(f"{found[name]:.3f}" if name in found else "-" for name in names),
        )
        for site, found in rows
    )


def _worst(result: Result) -> str:
    final, worst = result.final, result.final.worst_site
    if worst is None or worst not in final.per_site:
        return ""
    return (
        f"It does worst at {worst}, with an accuracy of {final.per_site[worst]['accuracy']:.3f}. "
        "Whoever uses the model there should go by that number, not by the one for all sites."
    )


def _code(environment: Environment) -> Iterator[Fact]:
    """What is known of the source; a result of an older release does not say."""
    if environment.commit:
        differs = environment.commit.endswith("+")
        more = ", with changes that are not in it" if differs else ""
        yield Fact(name="git commit of fedlearn", value=environment.commit.rstrip("+") + more)
    if environment.code:
        yield Fact(name="SHA-256 of fedlearn's source", value=environment.code)


def _provenance(result: Result) -> tuple[Fact, ...]:
    environment = result.environment
    versions = ", ".join(
        f"{name} {getattr(environment, name)}"
        for name in ("python", "torch", "flwr", "opacus", "cryptography")
    )
    return (
        Fact(name="run", value=result.run_id),
        Fact(name="started", value=result.started_at),
        Fact(name="seconds", value=f"{result.seconds:.1f}"),
        Fact(name="status", value=result.status),
        Fact(name="seed", value=str(result.config["seed"])),
        Fact(name="versions", value=versions),
        *_code(environment),
        Fact(name="device", value=f"{environment.device}, {environment.threads} threads"),
        Fact(name="SHA-256 of the data", value=result.data.sha256),
        Fact(name="SHA-256 of the model's values", value=result.model.sha256),
    )
