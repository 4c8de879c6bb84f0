"""`python -m simulations.hydra_app`: the runs of `fedlearn simulate` as an app of Hydra's own.

For those who sweep with Hydra: `-m` with any of its sweepers and launchers. `fedlearn
compare` does more for a product of values (all cores, resuming, one report); this
is the way to sweepers that choose values by results (`hydra/sweeper=optuna`), so a
job returns the pooled test metric of its run that leads, such as the accuracy. Every
trial on the same records is a release of its own: a site's ledger adds them up, the
promise of one run does not.
Without `out=` the runs of a sweep lie side by side in the folder `runs` of Hydra's
sweep, where `fedlearn report` finds them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from fedlearn.config import RunConfig, load, without_unset
from fedlearn.config.composition import plain
from fedlearn.config.layers import CONFIGS
from fedlearn.core.errors import FedlearnError
from fedlearn.results.reading import read_result
from server.stop import Stop, stop_on_interrupt
from simulations.display import Display
from simulations.run import simulate


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="run")
def main(tree: DictConfig) -> float | None:
    """One job: the run that its overrides describe; its leading pooled test metric."""
    settings, found = HydraConfig.get(), plain(tree)
    given = any(text.startswith("out=") for text in settings.overrides.task)
    if settings.mode == RunMode.MULTIRUN and not given:
        found["out"] = str(Path(settings.sweep.dir) / "runs" / str(settings.job.num))
    try:
        return _run(load(without_unset(found)))
    except FedlearnError as error:
        print(f"fedlearn: {error}".replace("\n", "\nfedlearn: "), file=sys.stderr)
        sys.exit(error.exit_code)


def _run(config: RunConfig) -> float | None:
    stop = Stop()
    with Display() as display, stop_on_interrupt(stop, display.say):
        simulate(config, display, stop)
    return read_result(Path(config.out)).final.evaluate.get(
        config.task.learns.metrics_known[0].name
    )


if __name__ == "__main__":
    main()
