"""Known public data sets, each checked by its SHA-256."""
