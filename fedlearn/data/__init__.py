"""Where records come from, and how they are dealt out to sites."""
