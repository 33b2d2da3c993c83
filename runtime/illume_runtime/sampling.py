"""How tokens are chosen and pictures are denoised: what a caller gives, filled up from the bundle's defaults."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from illume_kernels.params import SampleParams
from illume_runtime.bundle import GenerationConfig
from illume_runtime.errors import InvalidBundleError, UsageError
from illume_runtime.limits import MAX_STEPS

Sampling = TypeVar("Sampling", "TextSampling", "ImageSampling")


@dataclass(frozen=True, slots=True)
class TextSampling:
    """Choice of the tokens of an answer; None takes the bundle's default. Raises UsageError for a wrong value."""

    temperature: float | None = None  # 0: the likeliest token
    top_k: int | None = None  # 0: all
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_filters(self)
        _check("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        _check("max_tokens", self.max_tokens, 1, 1 << 20)


@dataclass(frozen=True, slots=True)
class ImageSampling:
    """Choice of visual tokens and the diffusion that follows; None takes the bundle's default. Raises UsageError."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    guidance: float | None = None  # of the tokens; 1: none
    steps: int | None = None
    diffusion_guidance: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_filters(self)
        _check("guidance", self.guidance, 0.0, 100.0)
        _check("diffusion_guidance", self.diffusion_guidance, 0.0, 100.0)
        _check("steps", self.steps, 1, MAX_STEPS)


_BUILT_IN: dict[str, float] = {
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "max_tokens": 128,
    "guidance": 1.0,
    "steps": 10,
    "diffusion_guidance": 1.0,
}


def with_defaults(sampling: Sampling, generation: GenerationConfig, task: str) -> Sampling:
    """The sampling with every None filled from the task's defaults. Raises InvalidBundleError for an unknown one."""
    defaults = generation.get(task, {})
    unknown = sorted(set(defaults) - set(_BUILT_IN))
    if unknown:
        raise InvalidBundleError(
            f"generation_config.json: {task} has {', '.join(unknown)}, expected some of {', '.join(_BUILT_IN)}"
        )
    missing = [f.name for f in fields(sampling) if getattr(sampling, f.name) is None]
    given: dict[str, Any] = {name: defaults.get(name, _BUILT_IN[name]) for name in missing}
    try:
        return replace(sampling, **given)
    except UsageError as error:
        raise InvalidBundleError(f"generation_config.json: {task}: {error}") from error


def params_of_rows(sampling: TextSampling | ImageSampling, requests: list[int]) -> SampleParams:
    """One row per request; `sampling` has no None left."""
    return SampleParams.broadcast(
        len(requests),
        temperature=sampling.temperature if sampling.temperature is not None else 0.0,
        top_k=sampling.top_k or 0,
        top_p=sampling.top_p if sampling.top_p is not None else 1.0,
        min_p=sampling.min_p or 0.0,
        seed=sampling.seed,
        request=requests,
    )


def _check_filters(sampling: TextSampling | ImageSampling) -> None:
    _check("temperature", sampling.temperature, 0.0, 100.0)
    _check("top_k", sampling.top_k, 0, 1 << 31)
    _check("min_p", sampling.min_p, 0.0, 1.0)
    _check("seed", sampling.seed, 0, (1 << 64) - 1)
    _check("top_p", sampling.top_p, 0.0, 1.0)
    if sampling.top_p is not None and sampling.top_p == 0:
        raise UsageError("top_p: got 0, expected a number above 0 and at most 1 (1: off)")


def _check(name: str, value: float | None, low: float, high: float) -> None:
    if value is None:
        return
    whole = isinstance(low, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise UsageError(f"{name}: got {value!r}, expected {kind} from {low:g} to {high:g}")
