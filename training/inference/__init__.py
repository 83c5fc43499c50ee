"""A model over many images: bulk prediction, ten-crop, sliding windows. Trains nothing."""
