"""A start-up kit: all that a site needs of its coordinator, in one signed archive."""
