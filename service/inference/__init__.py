"""Pixels to calibrated predictions: engines, batching, calibration, nearest neighbors. No HTTP."""
