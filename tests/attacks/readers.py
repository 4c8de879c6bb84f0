"""What in the code turns bytes or text into values: found in its syntax, and seen at work.

Every library that is imported is on a list: of those that read, every function is a reader that
is not known to do something else; of the others, what is named. So a new library, or a new use
of one that reads, is found without anybody having thought of it.
"""

from __future__ import annotations

import ast
import builtins
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import FrameType
from typing import Final

from tests.sources import ROOT, trees

PACKAGES: Final = ("fedlearn/", "clients/", "server/")
OURS: Final = frozenset({"fedlearn", "clients", "server", "simulations", "configs"})

READING: Final = (
    "ast.literal_eval", "base64", "binascii", "bz2", "codecs", "configparser", "csv", "dbm",
    "email", "flwr.common.serde", "flwr.common.serde_utils",
    "gzip", "html.parser", "http.cookies", "hydra", "ipaddress",
    "json", "lzma", "mailbox", "netrc", "omegaconf", "openpyxl", "PIL.Image", "pickletools",
    "plistlib",
    "pyarrow.csv", "pyarrow.ipc", "pyarrow.json", "pyarrow.parquet", "pydantic",
    "pydantic_core", "quopri", "safetensors", "sqlite3", "struct", "tarfile", "tokenizers",
    "tomllib", "wave", "xml", "xmlrpc", "yaml", "zipfile", "zlib",
)  # fmt: skip
"""Libraries, and parts of them, whose functions read: of Python's own all that do."""

HARMLESS: Final = frozenset(
    {"PIL.Image.MAX_IMAGE_PIXELS", "PIL.Image.Resampling", "PIL.Image.alpha_composite",
     "PIL.Image.fromarray", "PIL.Image.new", "base64.b64encode", "csv.field_size_limit",
     "csv.writer", "flwr.common.serde.fab_to_proto", "flwr.common.serde.message_to_proto",
     "flwr.common.serde.recorddict_to_proto", "flwr.common.serde.user_config_to_proto",
     "hydra.core.config_store.ConfigStore", "json.dumps", "pyarrow.ipc.new_stream",
     "pydantic.BaseModel", "pydantic.ConfigDict", "pydantic_core.core_schema",
     "pydantic_core.to_jsonable_python", "safetensors.numpy.save", "safetensors.torch.save",
     "yaml.SafeDumper", "yaml.dump", "zlib.crc32"}
)  # fmt: skip
"""What of those libraries writes, sets or describes."""

OTHERS: Final = frozenset(
    {"PIL", "annotated_types", "argcomplete", "cryptography", "dp_accounting",
     "fastapi", "flwr", "google", "httpx", "interpret", "jinja2", "markupsafe", "matplotlib",
     "mlflow", "numpy",
     "onnx", "onnxruntime", "onnxscript", "opacus", "peft",
     "pyarrow", "rich", "scipy", "sklearn", "starlette", "stdnum", "torch", "transformers",
     "typing_extensions", "uvicorn"}
)  # fmt: skip
"""Libraries of others that read nothing but by what is named below."""

NAMED: Final = frozenset({"numpy.load", "importlib.import_module"})

WORDS: Final = frozenset(
    {"FromString", "MergeFromString", "ParseFromString", "decode", "from_buffer", "from_bytes",
     "from_json", "from_private_bytes", "from_public_bytes", "frombuffer", "fromfile", "fromhex",
     "fromisoformat", "fromstring", "genfromtxt", "inflate", "inflate_object_from_contents",
     "load_der_private_key", "load_der_public_key", "load_der_x509_certificate",
     "load_pem_private_key", "load_pem_public_key", "load_pem_x509_certificate",
     "load_pem_x509_certificates", "loadtxt", "memory_map", "parse_qs", "strptime", "urlparse",
     "urlsplit"}
)  # fmt: skip
"""Functions that read, of whatever library or object."""

OWN: Final = frozenset(
    {"Reader", "content_from_bytes", "exchange", "named_arrays", "parse", "parsed", "read_table",
     "unpack", "unpacked", "vector_of", "vectors_of"}
)  # fmt: skip
"""Our own readers, upon which others build formats of theirs."""

FORBIDDEN: Final = frozenset(
    {"cloudpickle", "dill", "eval", "exec", "joblib", "marshal", "pickle", "shelve",
     "torch.hub", "torch.jit.load", "torch.load", "yaml.full_load", "yaml.unsafe_load"}
)  # fmt: skip
"""What runs, or may run, what it reads."""


@dataclass
class _Module(ast.NodeVisitor):
    """What a module imports, and what each of its functions refers to, by its qualified name."""

    libraries: set[str] = field(default_factory=set)
    references: dict[str, set[str]] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)
    _scope: tuple[str, ...] = ()

    def visit_Import(self, node: ast.Import) -> None:
        for one in node.names:
            self.libraries.add(one.name)
            first = one.name.split(".")[0]
            self._names[one.asname or first] = one.name if one.asname else first

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for one in node.names:
            self.libraries.add(str(node.module))
            self._names[one.asname or one.name] = f"{node.module}.{one.name}"

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        before, self._scope = self._scope, (*self._scope, node.name)
        self.generic_visit(node)
        self._scope = before

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before = self._scope
        self._scope = (*before, node.name, "<locals>")
        for part in (*node.body, *node.decorator_list, *node.args.defaults):
            self.visit(part)
        self._scope = before

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> None:
        before = self._scope
        self._scope = (*before, "<lambda>", "<locals>")
        self.visit(node.body)
        self._scope = before

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._refer(self._dotted(node))
        if not isinstance(node.value, ast.Name):
            self.visit(node.value)

    def visit_Name(self, node: ast.Name) -> None:
        self._refer(self._dotted(node))

    def knows(self, dotted: str) -> bool:
        """Whether a name is that of a library or builtin, and not of a variable of the module."""
        first = dotted.split(".")[0]
        imported = {name.split(".")[0] for name in (*self.libraries, *self._names.values())}
        return first in imported or hasattr(builtins, first)

    def _dotted(self, node: ast.expr) -> str:
        match node:
            case ast.Name(id=name):
                return self._names.get(name, name)
            case ast.Attribute(value=value, attr=attr):
                return f"{self._dotted(value)}.{attr}"
        return "?"

    def _refer(self, dotted: str) -> None:
        inside = self._scope[:-1] if self._scope[-1:] == ("<locals>",) else ()
        self.references.setdefault(".".join(inside), set()).add(dotted)


@cache
def _modules() -> dict[str, _Module]:
    found = {}
    for path, tree in trees().items():
        if path.startswith(PACKAGES):
            found[path] = module = _Module()
            module.visit(tree)
    return found


def _reads(dotted: str, module: _Module) -> bool:
    root, word = dotted.split(".")[0], dotted.rsplit(".", 1)[-1]
    if word.endswith(("Error", "Exception", "Warning", "error")) or _within(dotted, HARMLESS):
        return False
    if word in WORDS or ((_within(dotted, READING) or dotted in NAMED) and module.knows(dotted)):
        return True
    return word in OWN and (root in OURS or "." not in dotted)


def _within(dotted: str, names: frozenset[str] | tuple[str, ...]) -> bool:
    return any(dotted == name or dotted.startswith(f"{name}.") for name in names)


def _readers_of(module: _Module) -> dict[str, set[str]]:
    found = {
        name: {one for one in references if _reads(one, module)}
        for name, references in module.references.items()
        if name  # what a module does when it is imported, it does to constants of its own
    }
    return {name: by for name, by in found.items() if by}


def found_in(source: str) -> dict[str, set[str]]:
    """The functions of a module that turn bytes or text into values, and by what."""
    module = _Module()
    module.visit(ast.parse(source))
    return _readers_of(module)


@cache
def readers() -> dict[str, set[str]]:
    """All such functions of ours, as `path:name`."""
    return {
        f"{path}:{name}": by
        for path, module in _modules().items()
        for name, by in _readers_of(module).items()
    }


def unknown() -> set[str]:
    """Libraries that are imported and are on no list, by their first word."""
    found = {one.split(".")[0] for module in _modules().values() for one in module.libraries}
    reading = {one.split(".")[0] for one in READING}
    return found - OURS - OTHERS - reading - sys.stdlib_module_names


def forbidden() -> set[str]:
    """What is imported or called that may run what it reads, as `path: name`."""
    return {
        f"{path}: {one}"
        for path, module in _modules().items()
        for one in module.libraries.union(*module.references.values())
        if _within(one, FORBIDDEN) and module.knows(one)
    }


@contextmanager
def seen() -> Iterator[set[str]]:
    """The functions of ours that run meanwhile, here and in threads that start: `path:name`."""
    found: set[str] = set()
    prefix = f"{ROOT}/"

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(prefix):
            found.add(f"{code.co_filename.removeprefix(prefix)}:{code.co_qualname}")

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


_CHECKED = "text that has been read, and refused if need be, before"
_OWN = "bytes that this process has made itself: a hash, a key stream, a constant"
_WRITTEN = "a file that this program wrote for itself, where others do not write"
_ARCHIVE = "an archive that was pinned by its hash before it is opened"
_USER = "what the user of this machine has typed or installed"
_LINK = "answers of one's own SuperLink, on this machine: what sites put into them was read before"

UNFUZZED: Final = {
    _CHECKED: (
        "clients/records.py:kept", "clients/site.py:_learner",
        "fedlearn/data/tables/written.py:example_of",
        "clients/site.py:_open", "fedlearn/flower/apps/enrolment.py:AppSites._greet",
        "fedlearn/flower/apps/grid.py:SecureGrid._summed",
        "fedlearn/flower/messages.py:_config_of", "fedlearn/flower/sealing.py:Sealing.open",
        "fedlearn/flower/site.py:roster_of",
        "fedlearn/flower/strategies.py:step_of.<locals>.step",
        "fedlearn/secagg/payload.py:Payload.decode",
        "fedlearn/secagg/proven_payload.py:ProvenPayload.decode",
        "fedlearn/secagg/server.py:_combine", "server/helper.py:join", "server/joining.py:join",
        "server/secagg.py:MaskedDriver._opened", "server/secagg.py:RingDriver._opened",
        "server/secagg.py:RingDriver._opened.<locals>.add",
        "server/secagg.py:TwoServerDriver._opened", "server/secagg.py:TwoServerDriver._proven",
        "server/superlink/callers.py:_who",
    ),
    _OWN: (
        "clients/feature_cache.py:_store", "clients/screening.py:compare",
        "fedlearn/training/persons.py:People._drawn",
        "fedlearn/models/architectures.py:classes_in",
        "fedlearn/config/decoding.py:_adapter",
        "fedlearn/core/settings.py:_rules", "fedlearn/crypto/keyring.py:new_identity",
        "fedlearn/data/datasets/heart.py:_split",
        "fedlearn/data/texts/language.py:Encoder.text", "fedlearn/privacy/discrete.py:_thresholds",
        "fedlearn/privacy/noise.py:Keystream.further", "fedlearn/report/inversion.py:to_text",
        "fedlearn/stages/mask.py:RandomMask._part", "fedlearn/prediction.py:written_as",
        "fedlearn/cli/generation.py:_json", "fedlearn/report/forms.py:_merged",
        "fedlearn/report/forms.py:_peft", "fedlearn/report/forms.py:write_int8",
        "fedlearn/data/texts/public.py:_part", "fedlearn/models/retriever.py:_weights",
        "fedlearn/retrieval.py:Index.of",
        "server/run.py:run", "server/driver.py:SecAggDriver._params",
        "server/superlink/endpoint.py:SuperLink.ready", "fedlearn/data/arrays.py:keep_table",
    ),
    _WRITTEN: (
        "clients/canaries.py:_tossed", "clients/canaries.py:read_canaries",
        "clients/feature_cache.py:_known", "clients/feature_cache.py:_rows",
        "clients/supernode/fleet.py:headless", "clients/supernode/memory.py:Memory.state",
        "clients/own_state.py:OwnState._read",
        "fedlearn/crypto/certificates.py:_key_and_certificate",
        "fedlearn/data/tables/deidentify.py:_read_key", "fedlearn/models/squeezenet.py:_read",
        "fedlearn/results/categories.py:kept_categories", "fedlearn/retrieval.py:Index.read",
        "fedlearn/results/folder.py:RunFolder._check_same",
        "fedlearn/results/folder.py:RunFolder.read_checkpoint", "server/audit.py:read_seen",
        "server/superlink/gateway.py:main", "server/programs.py:Program.events",
        "server/queue.py:_read", "server/standing.py:_mark", "server/status.py:_health",
        "server/status.py:_objects", "server/status.py:_seconds_since",
        "server/status.py:_spending_of", "server/status_views.py:_seconds",
    ),
    _ARCHIVE: (
        "fedlearn/data/datasets/codes.py:phrases_in",
        "fedlearn/data/datasets/archives.py:_read",
        "fedlearn/data/datasets/contracts.py:_documents",
        "fedlearn/data/datasets/contracts.py:_read", "fedlearn/data/datasets/fashion.py:_idx",
        "fedlearn/data/datasets/gguf.py:_Header.number",
        "fedlearn/data/datasets/gguf.py:_Header.text",
        "fedlearn/data/datasets/gguf.py:_Placed.numbers",
        "fedlearn/data/datasets/heart.py:Heart.load", "fedlearn/data/datasets/lending.py:read",
        "fedlearn/data/datasets/news.py:_stories",
        "fedlearn/data/datasets/reviews.py:reviews_in", "fedlearn/models/squeezenet.py:_picked",
    ),
    _USER: (
        "fedlearn/__init__.py:__getattr__", "fedlearn/flower/__init__.py:__getattr__",
        "fedlearn/config/__init__.py:__getattr__", "fedlearn/config/nested.py:union_at",
        "fedlearn/config/words.py:_adapter",
        "fedlearn/core/alerts.py:_webhook_problem",
        "fedlearn/cli/__init__.py:main", "fedlearn/config/composition.py:_parsed",
        "fedlearn/cli/generation.py:_sampling", "fedlearn/cli/distilling.py:_how",
        "fedlearn/config/composition.py:_set", "fedlearn/config/composition.py:_set_own",
        "fedlearn/config/composition.py:plain", "fedlearn/config/layers.py:_by_hydra",
        "fedlearn/core/code.py:_installed", "fedlearn/crypto/certificates.py:_host",
        "fedlearn/loopback/server.py:PageServer.__init__", "fedlearn/report/plain.py:load",
        "fedlearn/report/plain.py:main", "server/kits.py:write_kits",
        "fedlearn/flower/apps/local.py:room_above", "fedlearn/models/custom.py:function_of",
    ),
    _LINK: (
        "server/superlink/link_grid.py:LinkGrid._exchange.<locals>.<lambda>",
        "server/superlink/link_grid.py:LinkGrid._received",
        "server/superlink/link_grid.py:LinkGrid._send",
        "server/superlink/link_grid.py:LinkGrid.pull_messages",
        "server/superlink/endpoint.py:SuperLink.carry_out",
        "server/superlink/endpoint.py:_refused",
    ),
}  # fmt: skip
"""Readers that no target of the fuzz needs to reach, by the reason why."""


def unfuzzed() -> frozenset[str]:
    """All of them."""
    return frozenset(name for names in UNFUZZED.values() for name in names)
