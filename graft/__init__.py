"""Graft: fine-tune pretrained image classifiers on your own images, and serve them. Nothing is imported until it is used."""
