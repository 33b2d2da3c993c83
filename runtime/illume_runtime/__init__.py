"""Loads a bundle and runs it: describe, draw, edit, reconstruct. No torch, no onnx.

ONNX Runtime's own telemetry is off unless the caller's environment turns it on: it would write an identifier into the
user's cache and send events. It is read when onnxruntime is imported, so it is set here, before any import of it.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
