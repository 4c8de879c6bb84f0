"""Audits and attacks: what every seat can learn, measured."""
