"""The quantized decoder as the CPU runs it: one node for the attention of a layer, its products as they are."""

from collections import Counter

import numpy as np
import onnx

from decoder_steps import decoder_steps
from illume_runtime import ort
from illume_runtime.bundle import Bundle
from illume_runtime.cpu_decoder import cpu_decoder


def test_its_attention_is_one_node_and_its_products_stay_quantized(quantized, monkeypatch):
    opened = Bundle.open(quantized)
    path, spec = opened.stage_path("decoder"), opened.stage("decoder")
    before, after = (
        Counter(node.op_type for node in model.graph.node)
        for model in (onnx.load(path), onnx.load_from_string(cpu_decoder(path)))
    )
    assert after["GroupQueryAttention"] == opened.model.num_layers
    for op in ("QuantizeLinear", "DequantizeLinear", "MatMul"):
        assert after[op] == before[op] > 0
    got = decoder_steps(ort.cpu_session(path, spec, 1))
    monkeypatch.setattr(ort, "cpu_decoder", lambda path: None)
    for one, other in zip(got, decoder_steps(ort.cpu_session(path, spec, 1)), strict=True):
        assert (
            np.abs(one - other).max() <= 0.02 * np.abs(other).max()
        )  # a number between two steps of int8 falls either way
