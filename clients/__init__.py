"""What runs inside a data owner's walls: raw data, private keys, the site's ledger and policy."""

import fedlearn as _fedlearn  # noqa: F401  (its switches come before the first import of flwr)
