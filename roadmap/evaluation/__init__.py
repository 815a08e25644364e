"""Evaluation of trained networks beyond a run: per class, calibration, common corruptions, latency."""
