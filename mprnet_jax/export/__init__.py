"""Networks for other programs: as graphs of ONNX operators, and as compiled JAX functions."""
