"""One module per data format: what it contains, and how its files are read."""
