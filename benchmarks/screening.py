"""What screening finds: how often a mistake of a site is seen, and how often one that is not there.

The sites, their sums and the noise are those of a run; nothing is trained. In turn every site has
its labels swapped, or a column in another unit, and noise is drawn anew each time. `home` is what
its owner is told, `released` what follows from what it has given (`policy.on_findings=refuse`).

    python benchmarks/screening.py experiment=medical_heart --column cholesterol --factor 0.02586
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from table import Table, parser, write

from clients.records import simulated_sites, simulated_task
from fedlearn.config import RunConfig, compose, plan_of, screened_layout
from fedlearn.screening import Rows, ScreeningLayout, SiteSums, TableFinding, findings, noise_in

MISTAKES = ("none", "labels", "unit")


@dataclass(frozen=True)
class Study:
    """The sites of a run, and a unit that one of them may mistake."""

    config: RunConfig
    column: str
    factor: float

    @cached_property
    def layout(self) -> ScreeningLayout:
        """What is added up."""
        found = screened_layout(self.config, simulated_task(self.config))
        if found is None:
            raise SystemExit("no such sums")
        return found

    @cached_property
    def sites(self) -> Mapping[str, Rows]:
        """Training records."""
        data = simulated_sites(self.config)
        return {name: (one.train.features, one.train.labels) for name, one in data.items()}

    @cached_property
    def noise(self) -> float:
        """Of one site, on each number."""
        task = simulated_task(self.config)
        size = len(task.classes) * (1 + sum(column.width for column in self.layout.columns))
        plan = plan_of(self.config, sites=len(self.sites), dimension=size, task=task)
        return noise_in(plan.screening if plan else None)

    def with_mistake(self, rows: Rows, mistake: str) -> Rows:
        """A site's records as it would have written them."""
        features, labels = rows
        if mistake == "labels":
            return features, len(self.layout.classes) - 1 - labels
        if mistake == "unit":
            features = features.copy()
            place = [column.name for column in self.layout.columns].index(self.column)
            column = self.layout.columns[place]
            values = column.values(features[:, place]) * self.factor
            scaled = (values - column.low) / (column.high - column.low) * 2 - 1
            features[:, place] = np.clip(scaled, -1, 1)
        return features, labels

    def sums(self, rows: Rows) -> SiteSums:
        """Of a site, without noise."""
        added = self.layout.added(rows[0])
        each = [added[rows[1] == at].sum(0) for at in range(len(self.layout.classes))]
        return SiteSums(layout=self.layout, sums=np.stack(each))


def noisy(table: SiteSums, noise: float, rng: np.random.Generator) -> SiteSums:
    """The same with noise on every number."""
    sums: NDArray[np.float64] = table.sums + rng.normal(0, noise or 1e-300, table.sums.shape)
    return replace(table, sums=sums, noise=noise)


def trials(
    study: Study, site: str, mistake: str, draws: int
) -> Iterator[tuple[list[TableFinding], list[TableFinding]]]:
    """What a site finds at home, and what follows from what it has given."""
    rng = np.random.default_rng(0)
    rows = study.with_mistake(study.sites[site], mistake)
    own, alarm = study.sums(rows), study.config.screening.alarm
    others = [study.sums(one) for name, one in study.sites.items() if name != site]
    total = replace(own, sums=np.sum([one.sums for one in others], axis=0))
    for _ in range(draws):
        there = noisy(total, study.noise * len(others) ** 0.5, rng)
        home = findings(own, there, alarm, rows)
        yield home, findings(noisy(own, study.noise, rng), there, alarm)


def main() -> None:
    """A Markdown table, and JSON where it is asked for."""
    options_of = parser(__doc__, epsilons=[1.0, 4.0, 8.0])
    options_of.add_argument("words", nargs="+", help="the run, as for `fedlearn simulate`")
    options_of.add_argument("--draws", type=int, default=200)
    options_of.add_argument("--column", default="")
    options_of.add_argument("--factor", type=float, default=1.0)
    options = options_of.parse_args()
    table = Table(
        epsilon=("epsilon", "g"), noise=("noise", ".1f"), mistake=("mistake", ""),
        site=("site", ""), records=("records", ""), home=("home", ".2f"),
        released=("released", ".2f"), more=("else, home", ".3f"),
    )  # fmt: skip
    for epsilon in options.epsilons:
        words = [*options.words, f"privacy.epsilon={epsilon:g}", "screening=sums"]
        study = Study(compose(words), options.column, options.factor)
        for mistake in MISTAKES if options.column else MISTAKES[:2]:
            for site, rows in study.sites.items():
                wanted = {"labels": "label", "unit": options.column}.get(mistake, "")
                seen = list(trials(study, site, mistake, options.draws))
                found = [[{f.where for f in one if f.grave} for one in both] for both in seen]
                table.row({
                    "epsilon": epsilon, "noise": study.noise, "mistake": mistake, "site": site,
                    "records": len(rows[1]),
                    "home": float(np.mean([wanted in one for one, _ in found])),
                    "released": float(np.mean([wanted in one for _, one in found])),
                    "more": float(np.mean([bool(one - {wanted}) for one, _ in found])),
                })  # fmt: skip
    write(options.json, {"rows": table.rows})


if __name__ == "__main__":
    main()
