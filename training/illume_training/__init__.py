"""Trains illume-tiny by the three-stage recipe."""

import illume_runtime  # noqa: F401 - before onnxruntime: it turns its telemetry off
