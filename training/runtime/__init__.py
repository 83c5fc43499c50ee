"""Atomic files, progress, threads and signals. Knows nothing of images or models."""
