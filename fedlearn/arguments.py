"""What the command line understands: commands, options, help. It runs nothing and imports little.

Every leaf sets `command` to its own words, such as "keys new", by which
`fedlearn.cli` finds what to call.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from fedlearn import __version__
from fedlearn.code import code_digest

# What `add_subparsers` returns has no public name.
Commands = argparse._SubParsersAction


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options in `arguments`; ends the program with 2 where they are none.

    `key=value` may stand before and after options: argparse takes them all at the
    first place where one could be, and hands back what comes later.
    """
    root = parser()
    options, later = root.parse_known_args(arguments)
    if later and hasattr(options, "overrides") and not any(word.startswith("-") for word in later):
        options.overrides = [*options.overrides, *later]
    elif later:
        root.error(f"unrecognized arguments: {' '.join(later)}")
    return options


def parser() -> argparse.ArgumentParser:
    """The parser of `fedlearn` with all of its commands."""
    root = argparse.ArgumentParser(
        prog="fedlearn",
        description="Federated learning whose privacy is true.",
        epilog="example: fedlearn simulate experiment=medical_heart out=runs/heart",
        formatter_class=_Help,
    )
    root.add_argument("--version", action=_Version, nargs=0, help="show version and hash of code")
    commands = root.add_subparsers(required=True, metavar="COMMAND")
    _add_simulate(commands)
    _add_compare(commands)
    _add_deployment(commands)
    _add_report(commands)
    _add_audit(commands)
    _add_data(_group(commands, "data", "what data there is", "data check my.csv"))
    _add_keys(_group(commands, "keys", "identities, and who takes part", "keys new cleveland"))
    _add_ledger(
        _group(commands, "ledger", "what a site has spent", "ledger show state/ledger.jsonl")
    )
    _add_export(commands)
    _add_predict(commands)
    return root


class _Help(argparse.HelpFormatter):
    """Leaves an example on one line, however narrow the terminal: it is there to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("example: "):
            return text
        return super()._fill_text(text, width, indent)


class _Version(argparse.Action):
    """Prints the version and the hash of the code; a class because argparse asks for one."""

    def __call__(self, parser: argparse.ArgumentParser, *unused: object) -> None:
        print(f"fedlearn {__version__} (code {code_digest()})")
        parser.exit()


def command_names(root: argparse.ArgumentParser) -> Iterator[str]:
    """The words of every command that can be called."""
    for action in root._actions:  # argparse has no public way to list them
        if isinstance(action, Commands):
            for child in action.choices.values():
                yield from command_names(child)
    if command := root.get_default("command"):
        yield command


def _add_simulate(commands: Commands[argparse.ArgumentParser]) -> None:
    simulate = _add(
        commands,
        "simulate",
        "one federated run on this machine",
        "simulate experiment=medical_heart privacy=none rounds=5 out=runs/open",
    )
    simulate.add_argument(
        "--config",
        metavar="FILE",
        help="start from the config.yaml that a run left behind instead of configs/run.yaml",
    )
    simulate.add_argument(
        "overrides", nargs="*", metavar="key=value", help="what to change, as Hydra overrides"
    )


def _add_compare(commands: Commands[argparse.ArgumentParser]) -> None:
    compare = _add(
        commands,
        "compare",
        "run the product of all comma-separated values, side by side, into one table and one "
        "report; the same command again does what is left",
        "compare experiment=medical_heart privacy.epsilon=0.5,1,2,4,8 seed=0,1,2 out=runs/cost",
    )
    compare.add_argument(
        "overrides",
        nargs="+",
        metavar="key=value",
        help="what to run, as Hydra overrides; compare.baselines=true adds reference lines, "
        "compare.workers=N limits the runs at a time",
    )


def _add_deployment(commands: Commands[argparse.ArgumentParser]) -> None:
    server = _add(
        commands,
        "server",
        "carry out a run over sites on their own machines; the same command again goes on "
        "with a run that was cut off",
        "server server.yaml experiment=medical_heart out=runs/heart",
    )
    server.add_argument("file", metavar="SERVERFILE", help="where it listens, and who takes part")
    server.add_argument("--check", action="store_true", help="only say what is wrong")
    server.add_argument(
        "overrides", nargs="*", metavar="key=value", help="the run, as for `fedlearn simulate`"
    )
    client = _add(
        commands,
        "client",
        "serve the site of a site file, run after run, until it is stopped",
        "client site.yaml --check",
    )
    client.add_argument(
        "file", metavar="SITEFILE", help="the site's data, keys, ledger and policy, and its server"
    )
    client.add_argument("--check", action="store_true", help="only say what is wrong")


def _add_report(commands: Commands[argparse.ArgumentParser]) -> None:
    report = _add(
        commands,
        "report",
        "write report.html of a run, of a comparison, or of a folder of runs, from its files alone",
        "report runs/heart",
    )
    report.add_argument("folder", metavar="DIR", help="what to report on; report.html goes there")
    report.add_argument(
        "--explain",
        metavar="RECORDS",
        help="add what the model of the run goes by in single records: `public` for the test "
        "records of a public data set, or a file of records that may be shown (.csv with the "
        "columns and units of a table of numbers, or .npz with the array `features`). The report "
        "then holds these records: explanations of a client's records are a release of data. "
        "Needs fedlearn[explain]",
    )


def _add_audit(commands: Commands[argparse.ArgumentParser]) -> None:
    audit = _add(
        commands,
        "audit",
        "measure privacy: of the run in a folder, of a new run, or in a demonstration",
        "audit runs/heart",
    )
    audit.add_argument(
        "words",
        nargs="+",
        metavar="DIR | key=value | demo=NAME",
        help="the folder of a run, refused if its model, data or config have changed; or what to "
        "run and measure, as Hydra overrides (audit=slots unless said otherwise); or a "
        "demonstration and its own key=value. references=N (default 4, from 8 with LiRA) trains "
        "so many models for membership inference",
    )


def _add_data(tasks: Commands[argparse.ArgumentParser]) -> None:
    _add(tasks, "data list", "known data sets", "data list")
    fetch = _add(tasks, "data fetch", "bring a known set into the cache", "data fetch heart")
    fetch.add_argument("name", metavar="NAME", help="one that `fedlearn data list` shows")
    check = _add(
        tasks,
        "data check",
        "look at one's own data: what is understood, and what is wrong, by line or file",
        "data check my.csv",
    )
    check.add_argument(
        "path",
        metavar="PATH",
        help="a table (CSV, Parquet), texts (CSV, JSONL, a folder that Hugging Face `datasets` "
        "saved), pictures (a folder for every class, or .npz)",
    )


def _add_keys(tasks: Commands[argparse.ArgumentParser]) -> None:
    new = _add(
        tasks,
        "keys new",
        "make an identity: NAME, which stays here, and NAME.pub for the coordinator",
        "keys new cleveland --folder keys",
    )
    new.add_argument("name", metavar="NAME", help="the participant's name in the roster")
    new.add_argument("--folder", default="keys", help="where both files go (default: keys)")
    new.add_argument(
        "--role",
        choices=("site", "server", "helper"),
        default="site",
        help="what it does in a federation (default: site)",
    )
    show = _add(
        tasks,
        "keys show",
        "the fingerprint of an identity, private or public",
        "keys show keys/cleveland.pub",
    )
    show.add_argument("path", metavar="PATH", help="of NAME or NAME.pub")
    certify = _add(
        tasks,
        "keys certificate",
        "make or renew the certificate under which sites reach the coordinator",
        "keys certificate fed.example.org --folder keys",
    )
    certify.add_argument("hosts", nargs="+", metavar="HOST", help="its names or IP addresses")
    certify.add_argument("--folder", default="keys", help="where the files go (default: keys)")
    roster = _group(tasks, "keys roster", "the signed list of who takes part",
                    "keys roster show roster.json")  # fmt: skip
    _add_roster(roster)


def _add_roster(tasks: Commands[argparse.ArgumentParser]) -> None:
    sign = _add(
        tasks,
        "keys roster sign",
        "sign public identities into a new roster; compare their fingerprints first",
        "keys roster sign keys/*.pub --by keys/coordinator --federation heart --to roster.json",
    )
    sign.add_argument("public", nargs="+", metavar="NAME.pub", help="who takes part")
    sign.add_argument("--by", required=True, metavar="KEY", help="the coordinator's identity")
    sign.add_argument(
        "--federation", required=True, metavar="NAME", help="what the roster is of, for its readers"
    )
    sign.add_argument(
        "--to", default="roster.json", metavar="FILE", help="the roster (default: roster.json)"
    )
    fingerprint = "0f1e-2d3c-4b5a-6978-8796-a5b4-c3d2-e1f0"
    pin = _add(
        tasks,
        "keys roster pin",
        "accept a roster, now and later, only with this signature; ask for the "
        "fingerprint in person or by telephone",
        f"keys roster pin roster.json {fingerprint}",
    )
    pin.add_argument("path", metavar="ROSTER", help="as `keys roster sign` wrote it")
    pin.add_argument("fingerprint", metavar="FINGERPRINT", help="of the coordinator's identity")
    show = _add(
        tasks,
        "keys roster show",
        "verify a roster and say who is in it",
        "keys roster show roster.json",
    )
    show.add_argument("path", metavar="ROSTER", help="as `keys roster sign` wrote it")
    show.add_argument("--pin", metavar="FINGERPRINT", help="whose signature it must carry "
                      "(default: the one noted by `keys roster pin`)")  # fmt: skip


def _add_ledger(tasks: Commands[argparse.ArgumentParser]) -> None:
    show = _add(
        tasks,
        "ledger show",
        "what each run has spent, and what that amounts to",
        "ledger show state/ledger.jsonl --delta 1e-5",
    )
    show.add_argument("path", metavar="LEDGER", help="ledger.jsonl of a site")
    show.add_argument(
        "--delta", type=float, default=1e-5, help="at which epsilon is stated (default: 1e-5)"
    )
    verify = _add(
        tasks,
        "ledger verify",
        "whether a ledger is intact; prints the hash to note elsewhere",
        "ledger verify state/ledger.jsonl",
    )
    verify.add_argument("path", metavar="LEDGER", help="ledger.jsonl of a site")
    verify.add_argument(
        "--head", metavar="HASH", help="a hash noted earlier: the ledger must have grown from it"
    )


def _add_export(commands: Commands[argparse.ArgumentParser]) -> None:
    export = _add(
        commands,
        "export",
        "the model of a run with its model card and privacy statement",
        "export runs/heart --to heart-model",
    )
    export.add_argument("run", metavar="DIR", help="the folder of the run")
    export.add_argument("--to", required=True, metavar="FOLDER", help="made; must not exist")


def _add_predict(commands: Commands[argparse.ArgumentParser]) -> None:
    predict = _add(
        commands,
        "predict",
        "what an exported model says of records in a file, as a table",
        "predict heart-model new.csv --to said.csv",
    )
    predict.add_argument("model", metavar="FOLDER", help="as `fedlearn export` wrote it")
    predict.add_argument(
        "records",
        metavar="RECORDS",
        help="a table (CSV, Parquet) with the columns and units of the run, texts (CSV, JSONL), or "
        ".npz with the array `features`; no label is needed",
    )
    predict.add_argument("--to", metavar="FILE", help="the table (default: the screen)")
    predict.add_argument(
        "--like",
        metavar="TABLE",
        help="the table that was trained on, for categories that the run did not name",
    )
    for name, way in (
        ("separator", "comma, semicolon, tab or pipe"),
        ("encoding", "such as cp1252"),
        ("decimal", ". or ,"),
        ("text", "the column of the texts"),
    ):
        predict.add_argument(f"--{name}", help=f"{way} (default: as in the run)")


def _group(
    commands: Commands[argparse.ArgumentParser], name: str, summary: str, example: str
) -> Commands[argparse.ArgumentParser]:
    return _parser(commands, name, summary, example).add_subparsers(required=True, metavar="TASK")


def _add(
    commands: Commands[argparse.ArgumentParser], name: str, summary: str, example: str
) -> argparse.ArgumentParser:
    command = _parser(commands, name, summary, example)
    command.set_defaults(command=name)
    return command


def _parser(
    commands: Commands[argparse.ArgumentParser], name: str, summary: str, example: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name.split()[-1],
        help=summary,
        description=_sentence(summary),
        epilog=f"example: fedlearn {example}",
        formatter_class=_Help,
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
