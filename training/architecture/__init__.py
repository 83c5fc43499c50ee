"""Layers, MACs and receptive fields of a network, traced without weights."""
