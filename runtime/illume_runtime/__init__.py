"""Loads a bundle and runs it: describe, draw, edit, reconstruct. No torch, no onnx."""
