"""Encoded bytes to checked pixels; training uses it too. No HTTP, no torch."""
