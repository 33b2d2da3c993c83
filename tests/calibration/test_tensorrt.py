"""TensorRT for RTX makes integer kernels of every quantized layer, for GPUs that are not there."""

from collections import Counter

import onnx
import pytest

from built_engines import built_engine
from illume_calibration.layers import layers_of
from illume_export.engines.builder import Options
from illume_runtime.bundle import Bundle

pytest.importorskip("tensorrt_rtx", reason="needs pip install 'illume-rt[tensorrt-rtx]'")
pytestmark = pytest.mark.engines


@pytest.mark.parametrize(
    "capability",
    ["8.6,8.9", *(pytest.param(name, marks=pytest.mark.slow) for name in ("8.0", "12.0"))],
)
@pytest.mark.parametrize("stage", ["vision_encoder", "decoder", "denoiser", "vae_decoder"])
def test_every_quantized_layer_is_an_integer_kernel(bundle, quantized, tmp_path, stage, capability):
    how = Bundle.open(quantized).manifest.quantization.stages[stage]
    graph = onnx.load(bundle / "stages" / f"{stage}.onnx").graph
    int8 = [layer for layer in layers_of(graph) if layer.name not in (*how.kept, *how.weight_only)]
    record = built_engine(quantized, stage, tmp_path, Options("tensorrt-rtx", capability))
    built = Counter((layer.type, layer.dtype) for layer in record.layers)
    profiles = len(record.profiles)  # each has kernels of its own
    # Products of one tensor are merged into one.
    assert built["gemm", "Int8"] == profiles * len({layer.input for layer in int8 if layer.kind == "linear"})
    assert built["correlation", "Int8"] == profiles * sum(layer.kind == "conv" for layer in int8)
    assert record.attentions == 0 or record.fused == profiles * record.attentions


def test_weights_of_a_head_alone_are_int8(quantized, tmp_path):
    record = built_engine(quantized, "head_text", tmp_path)
    assert [layer.weights for layer in record.layers if layer.weights] == ["Int8"]
