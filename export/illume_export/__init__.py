"""Checkpoint to ONNX to bundle."""

import illume_runtime  # noqa: F401 - before onnxruntime: it turns its telemetry off
