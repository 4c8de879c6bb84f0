"""What users of Flower take for apps of their own: `docs/flower.md` shows it at work.

- `secure` wraps a ServerApp's grid, `protect` is a mod for a ClientApp, `Protection` is what both
  agree on, `spend` charges a site's ledger, and `run_apps` runs two apps in one process.
- How our own coordinator and sites talk is in `fedlearn.flower.messages` and `.records`, as
  Flower's records and with its public API alone: every function has an inverse, or checks what
  came from the other side.
- What Flower keeps to itself, and we need all the same, is in `fedlearn.flower.private`, and
  for messages in transit in `fedlearn.flower.envelopes`.
"""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from fedlearn.flower.apps.grid import SecureGrid, secure
    from fedlearn.flower.apps.local import run_apps
    from fedlearn.flower.apps.mod import SiteMod, protect
    from fedlearn.flower.apps.owner import spend
    from fedlearn.flower.apps.protection import Protection

__all__ = ["Protection", "SecureGrid", "SiteMod", "protect", "run_apps", "secure", "spend"]

_PLACES = {
    "Protection": "protection",
    "SecureGrid": "grid",
    "SiteMod": "mod",
    "protect": "mod",
    "run_apps": "local",
    "secure": "grid",
    "spend": "owner",
}
"""Imported when it is asked for: the gateway, which reads one module here, needs no torch."""


def __getattr__(name: str) -> _Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _importlib.import_module(f"fedlearn.flower.apps.{_PLACES[name]}")
    found = globals()[name] = getattr(module, name)
    return found
