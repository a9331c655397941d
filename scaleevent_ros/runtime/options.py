"""Names of precisions and backends, without the libraries behind them."""

from __future__ import annotations

PRECISIONS = ("auto", "fp32", "fp16", "bf16")
FEATURE_SPACES = ("student", "teacher")
BACKENDS = ("auto", "eager", "compile", "cudagraph", "onnx", "openvino", "tensorrt")
