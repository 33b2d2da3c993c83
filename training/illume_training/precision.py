"""Where matrix products in bfloat16 are worth it: on GPUs, and on CPUs that have them in hardware."""

from __future__ import annotations

import contextlib

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices in hardware (a CPU: by AVX-512 BF16 or AMX; else it emulates)."""
    if device.type == "cuda":
        return True
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16"))


def products_in(dtype: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Context in which matrix products are computed in `dtype`; sums, norms and losses stay in float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)
