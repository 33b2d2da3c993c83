"""Checkpoint to ONNX to bundle."""
