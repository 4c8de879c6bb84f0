"""Estimators from sums that sites release: metrics, intervals, calibration, groups."""
