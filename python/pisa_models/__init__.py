"""A small PiSA-SR model: data, degradation, training, export to ONNX and evaluation."""
