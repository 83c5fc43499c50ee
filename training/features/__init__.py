"""Features of frozen backbones, and linear heads on them."""
