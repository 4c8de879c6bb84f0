"""A site on a machine of its own: its process, its connection, its state."""
