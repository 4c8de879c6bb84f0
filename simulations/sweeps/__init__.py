"""Comparisons: many runs from one command."""
