"""The stages of a language model: its decoder with a cache, and a head for each segment of its vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.cached_decoder import OPSET as CACHE_OPSET
from illume_export.cached_decoder import CachedDecoder
from illume_export.decoder_parity import PromptEmbeds, decoder_errors
from illume_export.flops import flops_of_shapes
from illume_export.models.language_model import LanguageModel
from illume_export.parity import module_errors
from illume_export.stage import Stage
from illume_runtime.manifest import Flops, TensorSpec

OPSET = 23
TOLERANCE = 1e-3
HEAD_TOLERANCE = 5e-3  # logits reach 100, and guidance multiplies the rounding of a difference of two by up to 7.5
GUIDANCE = (1.0, 2.0, 7.5)


class GuidedHead(nn.Module):
    """The head of one vocabulary segment.

    It is linear: guiding the hidden states, head(u + g (c - u)), is guiding the logits in one product instead
    of two. Without guidance both states are the same tensor, and the difference is exactly zero.
    """

    def __init__(self, model: LanguageModel, start: int, end: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(model.head_weight[start:end].detach().clone())

    def forward(self, hidden: Tensor, hidden_uncond: Tensor, guidance: Tensor) -> Tensor:
        """Logits [B, end - start] of hidden states [B, D] with and without the condition, and guidance [B]."""
        return F.linear(hidden_uncond + guidance[:, None] * (hidden - hidden_uncond), self.weight)


def decoder_stage(model: LanguageModel, prompt_embeds: PromptEmbeds) -> Stage:
    """All layers with a cache, compared with the model without one on conversations of `prompt_embeds`."""
    c = model.config
    caches = [f"{kind}_cache_{i}" for i in range(c.num_layers) for kind in ("key", "value")]
    shape = ("B", c.num_kv_heads, "S", c.head_dim)
    return Stage(
        name="decoder",
        module=CachedDecoder(model),
        inputs=(
            TensorSpec("inputs_embeds", "float32", ("B", "T", c.hidden_size)),
            TensorSpec("positions", "int64", ("B", "T")),
            *(TensorSpec(name, "float32", shape) for name in caches),
        ),
        outputs=(
            TensorSpec("hidden", "float32", ("B", "T", c.hidden_size)),
            *(TensorSpec(f"{name}_out", "float32", shape) for name in caches),
        ),
        opset=CACHE_OPSET,
        flops=Flops("token", flops_of_shapes(model, (1, 1, c.hidden_size))),
        errors=partial(decoder_errors, model, prompt_embeds),
        tolerance=TOLERANCE,
    )


def head_stage(model: LanguageModel, segment: str, start: int, end: int, hidden: Callable[[], Tensor]) -> Stage:
    """The head of the ids [start, end), compared on hidden states [N, D], at least six."""
    width = model.config.hidden_size
    module = GuidedHead(model, start, end)

    def reference(hidden: Tensor, hidden_uncond: Tensor, guidance: Tensor) -> Tensor:
        c, u = (model.logits(h, start, end) for h in (hidden, hidden_uncond))
        return u + guidance[:, None] * (c - u)

    def inputs() -> list[dict[str, Tensor]]:
        rows = hidden()[-2 * len(GUIDANCE) :]
        cond, uncond = rows.chunk(2)
        return [
            {"hidden": cond, "hidden_uncond": uncond, "guidance": torch.tensor(GUIDANCE)},
            {"hidden": cond[:1], "hidden_uncond": cond[:1], "guidance": torch.ones(1)},
        ]

    return Stage(
        name=f"head_{segment}",
        module=module,
        inputs=(
            TensorSpec("hidden", "float32", ("B", width)),
            TensorSpec("hidden_uncond", "float32", ("B", width)),
            TensorSpec("guidance", "float32", ("B",)),
        ),
        outputs=(TensorSpec("logits", "float32", ("B", end - start)),),
        opset=OPSET,
        flops=Flops("row", flops_of_shapes(module, (1, width), (1, width), (1,))),
        errors=module_errors(reference, inputs),
        tolerance=HEAD_TOLERANCE,
    )
