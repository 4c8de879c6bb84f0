"""`fedlearn desk`: the page on which an owner decides of studies, on this machine alone."""
