"""What is wrong across the fields of a config: each value is possible, not all of them together.

Every function gives `dotted.path=value: reason and way out` lines, and never raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from torch import nn

from fedlearn import models
from fedlearn.algorithms import LocalSettings, unprotected
from fedlearn.auditing import MislabelledAudit, SlotAudit
from fedlearn.config.engine import RayEngine
from fedlearn.config.terms import terms_of
from fedlearn.data.persons import persons_in
from fedlearn.data.tables.scaling import public_ranges
from fedlearn.mechanisms import ways_around
from fedlearn.metrics.fairness import problems as fairness_problems
from fedlearn.models.own_parts import own_problems
from fedlearn.models.validate import batch_problems, dp_problems, record_problems
from fedlearn.models.whitening import start_problems
from fedlearn.screening import form_problem, scaling_problem
from fedlearn.tasks import Task
from fedlearn.training.augmentation import augmentation_problems
from fedlearn.training.dp import refusals

if TYPE_CHECKING:
    from fedlearn.config import RunConfig


def problems(config: RunConfig) -> list[str]:
    """What is wrong across fields, as `dotted.path: reason` lines; needs no data."""
    found = [*config.scenario.problems(), *config.privacy.problems()]
    terms = terms_of(config)
    found += [*ways_around(config.privacy.unit, terms), *config.privacy.conflicts(terms)]
    found += _person_problems(config)
    found += config.robust.conflicts(terms, config.privacy)
    found += _device_problems(config)
    found += [*fairness_problems(config.fairness), *_algorithm_problems(config)]
    if config.evaluation == "private" and config.privacy.unit == "none":
        found.append(
            f"evaluation=private: is paid from a privacy budget, and privacy={config.privacy.kind} "
            "has none. Choose a privacy, or evaluation=pooled, per_site or none"
        )
    if config.partition.reads_site_files and config.sites is None:
        found.append("partition=files: set sites to the folder of the site files")
    found += [*_robust_problems(config), *_public_problems(config)]
    found += [*_screening_problems(config), *_validation_problems(config)]
    found += _statistics_problems(config)
    return [*found, *_stage_problems(config), *_audit_problems(config)]


def _person_problems(config: RunConfig) -> list[str]:
    """The unit of a promise within sites is the person exactly where records are somebody's."""
    person, unit = persons_in(config.scenario), config.privacy.unit
    if unit == "record" and person:
        return [
            f"privacy.unit=record: scenario.person={person} says whose records are, and a promise "
            "to each of them is the weaker for a person the more they are. Set privacy.unit=person"
        ]
    if unit == "person" and not person:
        return [
            f"privacy.unit=person: scenario={config.scenario.kind} does not say whose records are. "
            "Set scenario.person to the column that does, or privacy.unit=record"
        ]
    return []


def _validation_problems(config: RunConfig) -> list[str]:
    """What is chosen by validation needs records for it; and what decides who these are."""
    training, scenario, found = config.training, config.scenario, []
    asked = {"training.keep=best": training.keep == "best"}
    asked |= {f"training.patience={training.patience}": training.patience > 0}
    if not scenario.validates:
        found += [
            f"{setting}: is decided on validation records, of which there are none. Set "
            "scenario.validation_fraction, as 0.1"
            for setting, is_set in asked.items()
            if is_set
        ]
    elif config.evaluation == "none":
        found.append(
            "evaluation=none: no validation record is looked at either. Choose evaluation=private, "
            "pooled or per_site, or leave out scenario.validation_fraction"
        )
    if training.keep == "best" and config.personal:
        found.append(
            "training.keep=best: sites have models of their own, which are those of the last round "
            "and none to go back to. Set training.keep=last"
        )
    if scenario.parts_by_all and config.privacy.within_sites:
        found.append(
            f"{scenario.parts_by_all}: must be given where a run promises privacy within sites: a "
            "site's own times let one record move others from part to part. Set it to a time that "
            "all may know, or scenario.split=drawn"
        )
    return found


def _screening_problems(config: RunConfig) -> list[str]:
    """What can be seen of it before any data is."""
    if config.screening.idle:
        return []
    problem = scaling_problem(config.scenario.scales())
    if config.privacy.unit == "client":
        problem = "it tells of sites what privacy for whole clients hides. Choose privacy=record"
    return [_screening(config, problem)] if problem else []


def _screening(config: RunConfig, problem: str) -> str:
    return f"screening={config.screening.kind}: {problem}. Or set screening=none"


def _statistics_problems(config: RunConfig) -> list[str]:
    """What a run that makes figures of tables, and no model, has no use for."""
    if config.statistics.idle:
        return []
    found = []
    if public_ranges(config.scenario.scales()) is None:
        found.append(
            "statistics=table: figures are made of rows of a table with public ranges. Set "
            "scenario.scaling.kind=ranges, or choose a scenario of tables"
        )
    if config.privacy.unit == "client":
        found.append(
            "statistics=table: tells of sites what privacy for whole clients hides. Choose "
            "privacy=record"
        )
    if config.evaluation == "none":
        found.append(
            "evaluation=none: lets no figure leave a site. Set evaluation=pooled, or per_site"
        )
    exact = config.privacy.unit == "none"
    if exact and config.evaluation == "pooled" and config.statistics.by_site:
        found.append(
            "statistics.by_site=true: shows what evaluation=pooled does not. Set "
            "statistics.by_site=false"
        )
    for name in ("screening", "audit"):
        kind = getattr(config, name).kind
        if kind != "none":
            found.append(f"{name}={kind}: is of a run that trains. Set {name}=none")
    return found


def _public_problems(config: RunConfig) -> list[str]:
    """What owners have in files of their own is theirs: no part of it is public."""
    if not (config.partition.reads_site_files and config.robust.public_share):
        return []
    return [
        f"robust.public={config.robust.public_share:g}: the records of site files are their "
        f"owners', and robust={config.robust.kind} takes none of them. Set robust.public_file to "
        "a file of public records"
    ]


def _robust_problems(config: RunConfig) -> list[str]:
    """Proofs are looked at by two servers, neither of which sees an update."""
    if not config.robust.proves or config.secagg.two_servers:
        return []
    without = "robust.proofs=false" if hasattr(config.robust, "proofs") else "robust=bounded"
    return [
        f"robust={config.robust.kind}: proofs are checked by two servers, and "
        f"secagg={config.secagg.kind} has none of that. Set secagg=two_server, or "
        f"{without}"
    ]


def _stage_problems(config: RunConfig) -> list[str]:
    """What takes values out of an update leaves nothing to those who need all of them."""
    if config.stage.idle:
        return []
    found = []
    if config.strategy.travels:
        found.append(
            f"stage={config.stage.kind}: strategy={config.strategy.kind} keeps at a site what has "
            "left it, value by value. Set stage=none"
        )
    if isinstance(config.audit, SlotAudit):
        found.append(
            f"stage={config.stage.kind}: audit=slots looks for its canaries in an update as it is. "
            "Set stage=none, or audit=mislabelled"
        )
    return found


def _audit_problems(config: RunConfig) -> list[str]:
    """Slots hold single records, and say nothing of a promise that is made to whole clients, nor
    of rules that choose among sums."""
    if isinstance(config.audit, SlotAudit) and config.robust.group_size is not None:
        return [
            f"audit=slots: reads the noise of one sum, and robust={config.robust.kind} makes one "
            "change of several. Choose audit=mislabelled, or robust=bounded"
        ]
    if isinstance(config.audit, MislabelledAudit) and config.privacy.unit == "person":
        return [
            "audit=mislabelled: its canaries are single records, and here the unit is a person. "
            "Choose audit=slots"
        ]
    if isinstance(config.audit, SlotAudit) and config.privacy.unit == "client":
        return [
            "audit=slots: measures what is promised within sites, and here the unit is a client. "
            "Choose audit=mislabelled, or privacy=record"
        ]
    return []


def _algorithm_problems(config: RunConfig) -> list[str]:
    training, privacy = config.training, config.privacy
    settings = LocalSettings(
        optimizer=training.optimizer,
        momentum=training.momentum,
        shares_gradients=privacy.noise_from == "shares" and privacy.within_sites,
        noised_alone=_noised_alone(config),
        learning_rate=training.learning_rate,
    )
    return [*config.strategy.problems(settings), *_personal_problems(config)]


def _noised_alone(config: RunConfig) -> bool:
    """Whether what a site trains has noise of its own wherever it is to have any."""
    privacy = config.privacy
    return privacy.unit == "none" or (privacy.within_sites and privacy.noise_from == "site")


def _personal_problems(config: RunConfig) -> list[str]:
    """What leaves a site's own model without a meaning, or without protection."""
    part, strategy, found = config.training.personal, config.strategy, list[str]()
    named = f"strategy={strategy.kind}" if strategy.personal else f"training.personal={part}"
    if part != "none" and not _noised_alone(config):
        found.append(unprotected(named))
    if part != "none" and (strategy.corrects or strategy.remembers):
        found.append(
            f"training.personal={part}: strategy={strategy.kind} moves the steps of a site, or "
            "keeps a model of its own, as if all of it were shared. Set strategy=fedavg, fedavgm, "
            "fedadam or fedyogi, or training.personal=none"
        )
    if part == "head" and config.training.finetune == "head":
        found.append(
            "training.personal=head: with training.finetune=head nothing is trained but the head, "
            "and nothing would be shared. Set training.personal=none with strategy=mr_mtl, or "
            "train more (training.finetune=full)"
        )
    if config.personal and config.audit.kind != "none":
        found.append(
            f"audit={config.audit.kind}: measures what is sent of one model, and {named} gives "
            "every site its own. Set audit=none, or audit the same run with strategy=fedavg and "
            "training.personal=none"
        )
    if config.personal and config.training.average:
        found.append(
            f"training.average={config.training.average:g}: is a mean of shared models, and "
            f"{named} has sites keep their own beside the last one. Set training.average=0.0"
        )
    if config.personal and config.training.keep != "last":
        found.append(
            f"training.keep={config.training.keep}: takes the shared model of some round, and "
            f"{named} has sites keep their own beside the last one. Set training.keep=last"
        )
    return found


def _device_problems(config: RunConfig) -> list[str]:
    """Ray shows a site no GPU but those that are set aside for it."""
    engine = config.engine
    if not isinstance(engine, RayEngine) or engine.gpus_per_site:
        return []
    if config.training.device != "cuda":
        return []
    return [
        "engine.gpus_per_site=0: Ray then hides the GPUs from the sites, and training.device=cuda "
        "asks for one. Set the share of a GPU that a site takes, as engine.gpus_per_site=0.25"
    ]


def task_problems(config: RunConfig, task: Task) -> list[str]:
    """What is wrong once it is known what the records look like."""
    frozen = models.freezes(config.model, config.training.trained_part)
    form, scaling = task.form, config.scenario.scales()
    problem = None if config.screening.idle else form_problem(form, scaling)
    if not isinstance(task, config.task.learns):
        return [
            f"task={config.task.kind}: the records of scenario={config.scenario.kind} are for "
            f"task={task.kind}; choose that, or another scenario"
        ]
    if task.several and not config.screening.idle:
        problem = f"it compares classes, and with task={task.kind} a record has several"
    return [
        *([_screening(config, problem)] if problem else []),
        *models.problems(config.model, task),
        *start_problems(config.training.trained_part, task),
        *augmentation_problems(config.training, task, frozen=frozen),
        *task.weight_problems(config.training.class_weights),
    ]


def learner_problems(config: RunConfig, learner: models.Learner, task: Task) -> list[str]:
    """What is wrong with a built model in a run: what it is to keep apart, and what to keep."""
    own = own_problems(learner.model, config.training.personal)
    return [*own, *private_learner_problems(config, learner, task)]


def private_model_problems(config: RunConfig, model: nn.Module) -> list[str]:
    """What of a built model rules out clipping its gradient record by record."""
    engine = config.privacy.clips_with(config.training.dp_engine)
    if engine is None:
        return []
    if engine == "fast":
        mixing = record_problems(model)
        found = [*mixing.values(), *refusals(model, besides=mixing)]
    else:
        found = dp_problems(model)
    return [f"model: {problem}" for problem in found]


def private_learner_problems(config: RunConfig, learner: models.Learner, task: Task) -> list[str]:
    """The same of all that a record goes through; somebody's own model is tried as well.

    A layer of somebody's own can do anything, and only our engine looks at what it has done:
    Opacus believes a list of layers.
    """
    engine = config.privacy.clips_with(config.training.dp_engine)
    found = private_model_problems(config, learner.model)
    if engine is None or found or models.of_the_house(config.model):
        return found
    if engine != "fast":
        return [
            f"training.dp_engine={engine}: cannot tell whether model={config.model.kind} keeps "
            "records apart. Set training.dp_engine=fast"
        ]
    if learner.model not in _TRIED:
        learner.model.train()
        _TRIED[learner.model] = tuple(batch_problems(learner.whole(), task))
    return [f"model={config.model.kind}: {one}" for one in _TRIED[learner.model]]


_TRIED: WeakKeyDictionary[nn.Module, tuple[str, ...]] = WeakKeyDictionary()
"""What was found of a model: all sites of a process have the same one."""
