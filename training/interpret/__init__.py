"""What a network responds to: heat maps, embedding maps, feature maps, top activations."""
