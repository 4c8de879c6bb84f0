"""Engines: where the sites of a simulation run."""
