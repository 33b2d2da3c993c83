"""TensorRT makes integer kernels of every quantized layer. TensorRT for RTX builds without a GPU; where it is missing
(pip install tensorrt-rtx-cu13) this is skipped."""

import json
import subprocess
import sys

import onnx
import pytest

from illume_calibration.layers import layers_of
from illume_runtime.bundle import Bundle

pytest.importorskip("tensorrt_rtx")

# In a process of its own: the parser can die of a graph. Prints [[layer type, type of its first input], ...].
BUILD = """
import json, re, sys
import onnx
import tensorrt_rtx as trt

class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.lines = []

    def log(self, severity, message):
        self.lines.append((severity, message))

SIZES = {"B": (1, 2, 8), "T": (1, 1, 32)}
model = onnx.load(sys.argv[1])
for value in (*model.graph.input, *model.graph.output):
    for dim in value.type.tensor_type.shape.dim:
        if dim.dim_param == "S":
            dim.dim_value = 64  # TensorScatter: the number of slots must be static
for node in model.graph.node:
    if node.op_type == "Attention":
        node.attribute.append(onnx.helper.make_attribute("TRT_decomposable", 1))  # there is no fused one in float32
log = Log()
builder = trt.Builder(log)
network = builder.create_network(0)
parser = trt.OnnxParser(network, log)
assert parser.parse(model.SerializeToString()), [parser.get_error(i).desc() for i in range(parser.num_errors)]
config = builder.create_builder_config()
config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
config.num_compute_capabilities = 1
config.set_compute_capability(getattr(trt.ComputeCapability, sys.argv[2]), 0)
profile = builder.create_optimization_profile()
for value in model.graph.input:
    dims = value.type.tensor_type.shape.dim
    shapes = [[SIZES[d.dim_param][k] if d.dim_param else d.dim_value for d in dims] for k in range(3)]
    profile.set_shape(value.name, *shapes)
config.add_optimization_profile(profile)
assert builder.build_serialized_network(network, config) is not None
unused = [m for _, m in log.lines if "Unused Input" in m]
assert not unused, unused
pattern = re.compile(r"Name: [^,]+, LayerType: (\\w+), Inputs: \\[.*?Datatype: (\\w+)")
found = [pattern.search(line) for _, message in log.lines for line in message.splitlines()]
print(json.dumps([match.groups() for match in found if match]))
"""


@pytest.mark.parametrize("capability", ["SM80", "SM86", "SM89", "SM120"])
@pytest.mark.parametrize("stage", ["vision_encoder", "decoder", "denoiser", "vae_decoder"])
def test_every_quantized_layer_is_an_integer_kernel(bundle, quantized, stage, capability):
    how = Bundle.open(quantized).manifest.quantization.stages[stage]
    layers = layers_of(onnx.load(bundle / "stages" / f"{stage}.onnx").graph)
    int8 = [layer for layer in layers if layer.name not in (*how.kept, *how.weight_only)]
    command = [sys.executable, "-c", BUILD, str(quantized / "stages" / f"{stage}.onnx"), capability]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    built = [tuple(layer) for layer in json.loads(done.stdout.splitlines()[-1])]
    # Products of one tensor are merged into one.
    assert built.count(("gemm", "Int8")) == len({layer.input for layer in int8 if layer.kind == "linear"})
    assert built.count(("correlation", "Int8")) == sum(layer.kind == "conv" for layer in int8)
