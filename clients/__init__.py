"""What runs inside a data owner's walls: raw data, private keys, the site's ledger and policy."""
