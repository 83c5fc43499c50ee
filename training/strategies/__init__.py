"""The ways to train, and the selection among them."""
