"""For apps that are written with Flower and not with us: `docs/flower.md` shows them at work.

`secure` wraps a ServerApp's grid, `protect` is a mod for a ClientApp, `Protection` is what both
agree on, `spend` charges a site's ledger, and `run_apps` runs two apps in one process.
"""

from fedlearn.flower.apps.grid import SecureGrid, secure
from fedlearn.flower.apps.local import run_apps
from fedlearn.flower.apps.mod import SiteMod, protect
from fedlearn.flower.apps.owner import spend
from fedlearn.flower.apps.protection import Protection

__all__ = ["Protection", "SecureGrid", "SiteMod", "protect", "run_apps", "secure", "spend"]
