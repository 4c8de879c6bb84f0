"""For apps that are written with Flower and not with us: `docs/flower.md` shows them at work.

`secure` wraps a ServerApp's grid, `protect` is a mod for a ClientApp, `Protection` is what both
agree on, `spend` charges a site's ledger, and `run_apps` runs two apps in one process. All of
them are names of `fedlearn.flower`.
"""
