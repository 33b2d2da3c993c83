"""Calibration of bundles."""
