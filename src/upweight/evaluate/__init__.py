"""Predictions held against the truth: refits, calibration, planted label errors."""
