"""`llama-cpp-python`: a GGUF file, keys and values in float32, through llama.cpp's own functions.

int8-32 is Q8_0, int4-32 is Q4_0: groups of 32 with a scale in half precision.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from safetensors import safe_open

PACKAGES = ("llama-cpp-python",)
FLOAT32 = 0  # of ggml's types
TYPES = {
    "float32": (gguf.LlamaFileType.ALL_F32, gguf.GGMLQuantizationType.F32),
    "int8-32": (gguf.LlamaFileType.MOSTLY_Q8_0, gguf.GGMLQuantizationType.Q8_0),
    "int4-32": (gguf.LlamaFileType.MOSTLY_Q4_0, gguf.GGMLQuantizationType.Q4_0),
}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
INSIDE = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def export(checkpoint: Path, output: Path, threads: int, weights: str) -> None:
    """One GGUF file without a tokenizer; matrices in the type of the weights, the rest in float32."""
    file_type, matrix_type = TYPES[weights]
    config = json.loads((checkpoint / "config.json").read_text())
    output.mkdir()
    writer = gguf.GGUFWriter(output / "model.gguf", "qwen2")
    writer.add_file_type(file_type)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    with safe_open(checkpoint / "model.safetensors", framework="np") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            tensor = file.get_tensor(name)
            kind = matrix_type if tensor.ndim == 2 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(_name_of(name), gguf.quantize(tensor, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    writer.close()


class Side:
    """One sequence."""

    def __init__(self, folder: Path, threads: int, max_tokens: int) -> None:
        llama_cpp.llama_backend_init()
        self._silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._silence, ctypes.c_void_p(0))
        model = llama_cpp.llama_model_load_from_file(
            str(folder / "model.gguf").encode(), llama_cpp.llama_model_default_params()
        )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = max_tokens
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = FLOAT32
        self._context = llama_cpp.llama_init_from_model(model, params)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def reset(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    def append(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [V] of the last id."""
        tokens = (llama_cpp.llama_token * len(ids))(*ids)
        failed = llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(tokens, len(ids)))
        if failed:
            raise RuntimeError(f"llama_decode: {failed} for {len(ids)} tokens")
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, -1), (self._vocab_size,)).copy()


def _name_of(name: str) -> str:
    """GGUF's name of a tensor of Qwen2: model.layers.3.mlp.up_proj.weight -> blk.3.ffn_up.weight."""
    stem, _, kind = name.rpartition(".")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{INSIDE[part]}.{kind}"
