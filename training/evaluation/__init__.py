"""Numbers from predictions: metrics, calibration, confidence intervals, significance. Numpy only, no files."""
