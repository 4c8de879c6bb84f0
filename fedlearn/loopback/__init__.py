"""Pages for one person in the browser of this machine: who may see them, and what serves them."""
