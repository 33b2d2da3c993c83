"""TensorRT engines of a bundle's stages: `illume build`. Needs onnx and a builder, and no torch."""
