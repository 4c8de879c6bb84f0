"""Texts: reading them, and turning them into tokens."""
