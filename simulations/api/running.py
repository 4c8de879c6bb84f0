"""Runs from Python: quiet, in the process that asks, and leaving the folder of the command line."""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, overload

from clients.records import forget
from fedlearn.config import RunConfig, compose
from fedlearn.config.engine import LocalEngine
from fedlearn.core.errors import ConfigError, StoppedError, counted
from fedlearn.core.interrupt import Interrupt
from fedlearn.results.folder import RunFolder
from fedlearn.results.result import ResultFile as StoredResult
from fedlearn.results.result import RoundResult
from server.federation import Federation
from server.run import telling_what_is_kept
from server.stop import Stop, stop_on_interrupt
from simulations.api.asking import check_something_to_learn, in_python, words_of
from simulations.api.progress import Line
from simulations.api.result import Result, load_run
from simulations.api.study import Study, called_by_its_keywords, in_this_process
from simulations.attacks.audit import checked_references, measure_run
from simulations.attacks.membership import REFERENCES
from simulations.derived import composed
from simulations.engines.warm import warm_up
from simulations.run import check_folder, findings, notes
from simulations.run import simulate as run

if TYPE_CHECKING:
    from fedlearn.report.exposure import Exposure

ONE_AT_A_TIME: Final = threading.RLock()
"""A run sets torch's threads and where logs go, which all of a process share: one at a time."""


def simulate(
    *words: Study | str,
    out: Path | str | None = None,
    resume: bool = False,
    progress: bool | None = None,
    **settings: Any,
) -> Result:
    """Train one model over the sites of a simulation, on this machine.

    Args:
        words: a study, or the words of `fedlearn simulate`, such as "experiment=medical_heart"
            or "privacy.epsilon=1"; of both, the words go before what the study says.
        out: the folder of the run; it must not hold anything. By default a new one is made
            below `runs/`.
        resume: go on with the run that is in `out`.
        progress: whether a line says how far the run is; by default where somebody looks on,
            at a terminal or in a notebook.
        settings: values by name, such as `rounds=20`, `epsilon=1` (the key that ends in this
            name) or `privacy=fl.Record(epsilon=1)`.

    Returns:
        The run: numbers, model, report, and the folder that holds all of it.

    Raises:
        ConfigError: what was asked for is wrong; every problem, with the way out.
        PrivacyError: a privacy budget or a site's policy refused.
        ProtocolError: too few sites were left to finish, or one broke the protocol.
        DataError: records could not be read.
        KeyboardInterrupt: stopped by the user, after the round that was going on (a second
            Ctrl-C does not wait for it). `resume=True` goes on from there.

    Example:
        >>> import fedlearn as fl
        >>> run = fl.simulate("experiment=medical_heart", "privacy.epsilon=1", rounds=5)
        ...     # doctest: +SKIP
    """
    study, texts = parted(words)
    given = words_of(texts, settings | _place(out, resume), base=study.words if study else ())
    compose(given)  # what is wrong with them is said before anything is read
    check_something_to_learn(given)
    with called_by_its_keywords(study):
        found = composed(given)
    config = one_process_where_torch_has_threads(found.config)
    name = Path(config.out)
    if study:
        in_this_process(config)
        name = Path("runs") / study.name
    claimed = claimed_folder(config, given, name)
    with (
        called_by_its_keywords(study), ONE_AT_A_TIME, Line.shown(progress) as line,
        claimed as placed,
    ):  # fmt: skip
        result = _run(placed, line)
    result = replace(result, notes=(*result.notes, *found.notes))
    if study is None:
        return result
    return replace(result, notes=(*study.notes, *map(in_python, result.notes)))


def parted(words: Sequence[Study | str]) -> tuple[Study | None, list[str]]:
    """The study and the words.

    Raises:
        ConfigError: there is more than one study.
    """
    studies = [word for word in words if isinstance(word, Study)]
    if len(studies) > 1:
        raise ConfigError("give one study at a time")
    texts = [word for word in words if not isinstance(word, Study)]
    return (studies[0] if studies else None), texts


def _place(out: Path | str | None, resume: bool) -> dict[str, Any]:
    place: dict[str, Any] = {} if out is None else {"out": str(out)}
    return place | ({"resume": True} if resume else {})


def _run(config: RunConfig, line: Line) -> Result:
    stop, listener = Stop(), _Listener(line)
    with torch_for_a_run(), interruptible(stop, line):
        forget()
        check_folder(config)
        warm_up(config)
        answered = notes(config)
        try:
            with telling_what_is_kept(config, "the same with resume=True"):
                run(config, listener, stop)
        except StoppedError as error:
            raise Interrupt(f"{error}; what is done is in {config.out}") from None
    result = load_run(config.out)
    result.report()
    return replace(result, notes=(*answered, *listener.notes))


class _Listener:
    """Tells the line of progress, and keeps what sites have noted."""

    def __init__(self, line: Line) -> None:
        self.line, self.rounds = line, 0
        self.notes: tuple[str, ...] = ()
        self.config: RunConfig | None = None

    def started(self, federation: Federation, first_round: int) -> None:
        self.config = federation.config
        self.rounds, self.notes = federation.config.rounds, federation.notes
        self.line.say(counted(len(federation.grid.sites), "site"))

    def round_finished(self, entry: RoundResult) -> None:
        from simulations.display import describe

        self.line.say(f"round {entry.round} of {self.rounds}  {describe(entry)}")

    def finished(self, result: StoredResult) -> None:
        """Keep what sites have found; the result says all else."""
        if self.config is not None:
            self.notes += tuple(findings(self.config, result.data.sites))


def one_process_where_torch_has_threads(config: RunConfig) -> RunConfig:
    """The config with one process for all sites where each computes on several threads.

    Who asks may have used torch before, and no fork of a process whose torch has used threads
    can use threads of its own: it would wait for them for ever. Where sites are answered for
    changes no number.
    """
    engine = config.engine
    if isinstance(engine, LocalEngine) and engine.threads > 1:
        return replace(config, engine=replace(engine, workers=1))
    return config


@contextmanager
def claimed_folder(config: RunConfig, words: Sequence[str], name: Path) -> Iterator[RunConfig]:
    """The config with the folder that `words` name, or else with a new one like `name`.

    Of a run that is refused no new folder is left.
    """
    if any(word.startswith("out=") for word in words):
        yield replace(config, out=str(Path(config.out).resolve()))
        return
    path = new_folder(name.resolve())
    try:
        yield replace(config, out=str(path))
    finally:
        if not RunFolder(path).holds_run() and not any(path.iterdir()):
            path.rmdir()


def new_folder(path: Path) -> Path:
    """Make a folder that was not there: `path`, or `path-2`, `path-3`, ..."""
    for number in itertools.count(1):
        found = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            found.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"out={found}: cannot be made ({error.strerror})") from None
        return found
    raise AssertionError("numbers never end")


@contextmanager
def torch_for_a_run() -> Iterator[None]:
    """Gradients whatever the caller has switched off; gives it its number of threads back."""
    import torch

    before = torch.get_num_threads()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(before)


def interruptible(stop: Stop, line: Line) -> Any:
    """Ctrl-C as on the command line; in another thread than the first, none arrives."""
    first = threading.current_thread() is threading.main_thread()
    return stop_on_interrupt(stop, line.tell) if first else nullcontext()


@overload
def audit(
    run: Result | Study | Path | str,
    *words: str,
    demo: None = None,
    references: int = REFERENCES,
    out: Path | str | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> Result: ...


@overload
def audit(
    run: Result | Path | str,
    *words: str,
    demo: Literal["exposure"],
    out: Path | str | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> Exposure: ...


def audit(
    run: Result | Study | Path | str,
    *words: str,
    demo: str | None = None,
    references: int = REFERENCES,
    out: Path | str | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> Result | Exposure:
    """Measure what a run gives away of its records, and write that into its result and report.

    Args:
        run: a finished run, or its folder; or, as for `fl.simulate`, a study or the words of a
            new run, which then carries canaries (`audit=slots` unless said otherwise).
        words: further words of a new run.
        demo: "exposure" gives a site records with secrets, tunes a language model with the
            study's privacy and without, and looks for them; `settings` are then also those of
            this audit, such as `repetitions=[1, 10]`, `canaries=8`, `digits=4`.
        references: models that are trained to compare with, an even number from 2 to 256; from
            8 on the attack LiRA is among those that are tried.
        out, progress, settings: of a new run, as for `fl.simulate`.

    Returns:
        The run with what was found in `audit`. Where that is a broken promise, a RuntimeWarning
        says so, and `audit.broken` is true. With `demo="exposure"` what was found
        (`fedlearn.report.exposure.Exposure`), and files of it in the folder.

    Raises:
        ConfigError: what was asked for is wrong, or the config of the run was changed.
        DataError: the run has not finished, or its model or its data were changed.

    Example:
        >>> import fedlearn as fl
        >>> fl.audit(fl.load_run("runs/heart")).audit.verdict     # doctest: +SKIP
    """
    if demo is not None:
        return _demonstrated(demo, run, words, settings, out, progress)
    fresh = isinstance(run, Study) or (isinstance(run, str) and "=" in run)
    if isinstance(run, Study) or (isinstance(run, str) and fresh):
        texts = [word for word in (run, *words) if isinstance(word, str)]
        asked = any(word.lstrip("+").startswith("audit=") for word in texts)
        slots: dict[str, Any] = {} if asked or "audit" in settings else {"audit": "slots"}
        run = simulate(run, *words, out=out, progress=progress, **settings, **slots)
    elif words or settings or out is not None:
        raise ConfigError("audit: the config of a run is its own; give nothing besides")
    folder = run.folder if isinstance(run, Result) else Path(run).resolve()
    with ONE_AT_A_TIME, torch_for_a_run():
        found = measure_run(folder, checked_references(references), fresh=fresh)
    if found.broken:
        text = f"{found.verdict}: {folder} gives away more than its epsilon"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    return load_run(folder)


def _demonstrated(
    demo: str,
    run: Result | Study | Path | str,
    words: Sequence[str],
    settings: dict[str, Any],
    out: Path | str | None,
    progress: bool | None,
) -> Exposure:
    from simulations.api.exposing import exposed

    if demo != "exposure":
        raise ConfigError(
            f"fl.audit: demo={demo} is for the command line, as in fedlearn audit demo={demo}; "
            "here there is demo='exposure'"
        )
    if isinstance(run, Study):
        raise ConfigError(
            "fl.audit: demo='exposure' reads the records of its study in several processes; name "
            "their file by words, as in 'scenario=language', 'scenario.path=letters.jsonl'"
        )
    first = str(run.folder if isinstance(run, Result) else run)
    with ONE_AT_A_TIME, torch_for_a_run(), Line.shown(progress) as line:
        forget()
        stop = Stop()
        with interruptible(stop, line):
            return exposed([first, *words], settings, out, line, stop)
