"""What the host must know of a language model of any family: the keys `model` and `vocabulary` of bundle.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from illume_export.models import LanguageModelConfig


def model_and_vocabulary(
    language: LanguageModelConfig, segments: Mapping[str, tuple[int, int]], controls: Mapping[str, int]
) -> dict[str, Any]:
    """Both keys; `segments` are ids [start, end) by name."""
    return {
        "model": {
            "hidden_size": language.hidden_size,
            "num_layers": language.num_layers,
            "num_kv_heads": language.num_kv_heads,
            "head_dim": language.head_dim,
            "max_context": language.max_context,
        },
        "vocabulary": {
            "size": language.vocab_size,
            "segments": [{"name": name, "start": start, "end": end} for name, (start, end) in segments.items()],
            "controls": dict(controls),
        },
    }
