"""Handwritten digits, learned over several sites with Flower."""
