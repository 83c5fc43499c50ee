"""A name to a pretrained network to an ONNX graph."""
