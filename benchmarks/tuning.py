"""How the settings of experiments are chosen: on training records alone, no test record is read.

    python benchmarks/tuning.py experiment=medical_heart \
        --try training.learning_rate=0.1 --try training.learning_rate=0.2
    python benchmarks/tuning.py experiment=medical_imaging scenario.path=my.npz scenario.test=val \
        --hold-out part --noise 2.24 --try model=vit --try 'model=resnet rounds=60'

One curator trains as the sites of a run do together: the same model, on what its frozen part
makes of the records, with the same clipping, steps and strategy, and the noise of one sum times
`--noise`; for sites that add noise each by themselves that is the square root of their number.
It is judged on what was held out: a fold of the records, of the groups (sites, or categories
of diagnoses), or the part of a data set that `scenario.test` names. All settings see the same.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from table import Table, parser, write
from torch import Tensor

from clients.owner import owner_of
from clients.records import simulated_sites
from clients.site import Site, open_site
from fedlearn.algorithms import RoundMean, State
from fedlearn.config import compose, plan_of
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector, load_vector, to_vector
from fedlearn.data import load_pool
from fedlearn.data.datasets.archives import default_cache
from fedlearn.data.partition import Iid
from fedlearn.mechanisms import RecordPlan
from fedlearn.models import build
from fedlearn.privacy import SystemNoise
from fedlearn.training.local import predict, train
from fedlearn.training.private import train_private
from server.average import RunningMean

Records = tuple[Tensor, Tensor]


def opened(words: list[str]) -> Site:
    """All records of a config at one site, in their own order."""
    with tempfile.TemporaryDirectory() as folder:
        config = replace(compose([*words, f"out={folder}/run"]), partition=Iid(num_sites=1))
        (name,) = simulated_sites(config)
        return open_site(owner_of(config, name), config)


def untrained(site: Site) -> Vector:
    """The weights that a run starts from. Those of `site.model` are of the row before: one model
    serves all sites of a process."""
    config = site.config
    weights = config.model.weights(default_cache(os.environ))
    part = config.training.trained_part
    return to_vector(build(config.model, site.task, Streams(config.seed), part, weights).model)


def parts(site: Site, hold_out: str, folds: int) -> Iterator[tuple[Records, Records]]:
    """What is trained on, and what is held out."""
    if hold_out == "part":
        yield site.train_tensors, site.test_tensors
        return
    x, y = site.train_tensors
    config, cache = site.config, default_cache(os.environ)
    pool = load_pool(config.scenario, Streams(config.seed), cache, task=config.task)
    labels = pool.labels[pool.is_train]
    np.testing.assert_array_equal(labels, y)  # the same records, in the same order
    strata = site.task.strata(labels)
    group = pool.attributes.get("category", pool.natural_site)
    group = None if group is None else group[pool.is_train]
    if hold_out == "groups":
        assert group is not None, "--hold-out groups: these records have none"
        split = StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(x, strata, group)
    else:
        split = StratifiedKFold(folds, shuffle=True, random_state=0).split(x, strata)
    for kept, held in split:
        yield (x[kept], y[kept]), (x[held], y[held])


def fit(
    site: Site, start: Vector, records: Records, held: Records, noise: float
) -> dict[str, float]:
    """Train from the weights `start`; metrics on what was held out."""
    config, model, vector = site.config, site.model, start
    average = RunningMean(config.training.average, np.zeros(len(start)))
    state: State = {}
    for number in range(1, config.rounds + 1):
        load_vector(model, vector)
        train_once(site, number, records, noise)
        mean = RoundMean(number=number, before=vector, model=to_vector(model), extra={}, share=1.0)
        vector, state = config.strategy.server(mean, state)
        average.take(vector)
    load_vector(model, average.model() if config.training.average else vector)
    return site.task.score(predict(model, site.task, held[0], 1024), held[1].numpy())


def train_once(site: Site, number: int, records: Records, noise: float) -> None:
    """One round over all records at once."""
    config, plan = site.config, plan_of(site.config)
    # The divisor of the sum is a constant; here there are so many records in all.
    training = replace(config.training, nominal_records=len(records[1]))
    if plan is None:
        rng = Streams(config.seed).get("batches", number)
        train(site.model, *records, training, loss=site.loss, rng=rng)
        return
    assert isinstance(plan, RecordPlan)
    plan = replace(plan, noise_multiplier=noise * plan.noise_multiplier)
    train_private(site.model, *records, training, plan, loss=site.loss, noise=SystemNoise())


def main() -> None:
    """Print a row for every budget and set of values: means over the folds."""
    options_of = parser(__doc__, folds=4, noise=1.0)
    options_of.add_argument("words", nargs="+", metavar="KEY=VALUE", help="the config of all")
    options_of.add_argument("--try", dest="tried", action="append", help="overrides of one row")
    options_of.add_argument("--budgets", default="none,8,2", help="`none`, and epsilons")
    options_of.add_argument("--hold-out", choices=("records", "groups", "part"), default="records")
    options_of.add_argument("--used", type=int, help="how many of the folds are used")
    options = options_of.parse_args()
    torch.set_num_threads(1)
    table = Table(
        tried="tried", budget="epsilon", loss=("loss", ".4f"), leading="metric",
        seconds=("CPU of a fold", ".1f", " s"),
    )  # fmt: skip
    for tried in options.tried or [""]:
        for budget in options.budgets.split(","):
            private = ["privacy=record", f"privacy.epsilon={budget}"]
            privacy = ["privacy=none"] if budget == "none" else private
            site = opened([*options.words, *privacy, *tried.split()])
            start, began = untrained(site), time.process_time()
            folds = islice(parts(site, options.hold_out, options.folds), options.used)
            found = [fit(site, start, *fold, options.noise) for fold in folds]
            seconds = (time.process_time() - began) / len(found)
            mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
            leading = site.task.leading
            shown = f"{leading.title} {mean[leading.name]:.4f}"
            row = {"tried": tried, "budget": budget, "seconds": seconds, "leading": shown}
            table.row(row | mean)
    write(options.json, {"words": options.words, "noise": options.noise, "rows": table.rows})


if __name__ == "__main__":
    main()
