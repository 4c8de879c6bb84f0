"""Programs that measure fedlearn beside its peers; each runs on its own."""
