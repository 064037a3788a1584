"""Predictions held against the truth: refits, calibration, candidates for wrong labels."""
