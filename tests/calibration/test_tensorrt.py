"""TensorRT makes integer kernels of every quantized layer. TensorRT for RTX builds without a GPU; where it is missing
(pip install 'illume-rt[tensorrt-rtx]') this is skipped."""

import onnx
import pytest

from illume_calibration.layers import layers_of
from illume_export.engines.builder import build_engine, engine_plan
from illume_runtime.bundle import Bundle

pytest.importorskip("tensorrt_rtx", reason="needs pip install 'illume-rt[tensorrt-rtx]'")

TARGET = "tensorrt-rtx"


@pytest.mark.parametrize(
    "capability",
    ["8.6", *(pytest.param(name, marks=pytest.mark.slow) for name in ("8.0", "8.9", "12.0"))],
)
@pytest.mark.parametrize("stage", ["vision_encoder", "decoder", "denoiser", "vae_decoder"])
def test_every_quantized_layer_is_an_integer_kernel(bundle, quantized, tmp_path, stage, capability):
    opened = Bundle.open(quantized)
    how = opened.manifest.quantization.stages[stage]
    graph = onnx.load(bundle / "stages" / f"{stage}.onnx").graph
    int8 = [layer for layer in layers_of(graph) if layer.name not in (*how.kept, *how.weight_only)]
    (planned,) = engine_plan(opened, tmp_path, TARGET, capability, [stage], 0)
    record = build_engine(planned, TARGET, 0)
    built = [(layer.type, layer.dtype) for layer in record.layers]
    profiles = len(planned.profiles)  # each has kernels of its own
    # Products of one tensor are merged into one.
    assert built.count(("gemm", "Int8")) == profiles * len({layer.input for layer in int8 if layer.kind == "linear"})
    assert built.count(("correlation", "Int8")) == profiles * sum(layer.kind == "conv" for layer in int8)
    fused = sum("_mha_" in layer.name for layer in record.layers)
    assert fused == profiles * sum(node.op_type == "Attention" for node in graph.node)
