"""A checkpoint becomes a fast callable: eager, compiled, CUDA graph, ONNX, TensorRT."""
