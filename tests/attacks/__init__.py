"""Attacks on what is deployed: each test is named by what must not happen."""
