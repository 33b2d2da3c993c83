"""How tokens are chosen and pictures are denoised: what a caller gives, filled up from the bundle's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from illume_kernels.oracle import support
from illume_kernels.params import SampleParams
from illume_runtime.bundle import GenerationConfig
from illume_runtime.errors import InvalidBundleError, UsageError
from illume_runtime.limits import MAX_STEPS

Quality = Literal["draft", "standard", "best"]
QUALITIES = get_args(Quality)
SECOND = "_level1"  # ends the names of what holds for the second level of visual tokens
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
    """Choice of visual tokens and the diffusion that follows; None takes the bundle's default. Raises UsageError.

    With `double_sampling` temperature, top-k and top-p act twice, the second time those of the first level on every
    level: so the public implementation of ILLUME+ draws, by mistake. It is for comparisons with what that one drew.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    guidance: float | None = None  # of the tokens; 1: none
    steps: int | None = None
    diffusion_guidance: float | None = None
    seed: int = 0
    repetition_penalty: float | None = None
    temperature_level1: float | None = None  # of the second level; the others hold for all levels without one
    top_k_level1: int | None = None
    top_p_level1: float | None = None
    quality: Quality | None = None
    double_sampling: bool = False

    def __post_init__(self) -> None:
        _check_filters(self)
        _check_filters(self.of_level(1))
        _check("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        if not isinstance(self.double_sampling, bool):
            raise UsageError(f"double_sampling: got {self.double_sampling!r}, expected True or False")
        if self.quality not in (None, *QUALITIES):
            raise UsageError(f"quality: got {self.quality!r}, expected one of {', '.join(QUALITIES)}")
        _check("guidance", self.guidance, 0.0, 100.0)
        _check("diffusion_guidance", self.diffusion_guidance, 0.0, 100.0)
        _check("steps", self.steps, 1, MAX_STEPS)

    def of_level(self, level: int) -> TextSampling:
        """The filters of one level of visual tokens."""
        own = (self.temperature_level1, self.top_k_level1, self.top_p_level1) if level == 1 else (None, None, None)
        return TextSampling(
            temperature=self.temperature if own[0] is None else own[0],
            top_k=self.top_k if own[1] is None else own[1],
            top_p=self.top_p if own[2] is None else own[2],
            min_p=self.min_p,
            seed=self.seed,
        )


_BUILT_IN: dict[str, float] = {
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "max_tokens": 128,
    "guidance": 1.0,
    "diffusion_guidance": 1.0,
}


def with_defaults(sampling: Sampling, generation: GenerationConfig, task: str) -> Sampling:
    """The sampling with every None filled from the task's defaults. Raises InvalidBundleError for an unknown one."""
    defaults = generation.get(task, {})
    known = {f.name for f in fields(ImageSampling) if f.name.endswith(SECOND)} | {"steps", *_BUILT_IN}
    unknown = sorted(set(defaults) - known)
    if unknown:
        raise InvalidBundleError(
            f"generation_config.json: {task} has {', '.join(unknown)}, expected some of {', '.join(sorted(known))}"
        )
    missing = [f.name for f in fields(sampling) if getattr(sampling, f.name) is None]
    given: dict[str, Any] = {
        name: _of_second_level(name, sampling, defaults)
        if name.endswith(SECOND)
        else defaults.get(name, _BUILT_IN.get(name))
        for name in missing
    }
    try:
        return replace(sampling, **given)
    except UsageError as error:
        raise InvalidBundleError(f"generation_config.json: {task}: {error}") from error


def _of_second_level(name: str, sampling: Sampling, defaults: Mapping[str, int | float]) -> int | float | None:
    """The default of the second level: its own, unless the caller chose the first one's; then in proportion to it."""
    first = name.removesuffix(SECOND)
    chosen, own, default = getattr(sampling, first), defaults.get(name), defaults.get(first)
    if chosen is None:
        return own
    return round(chosen * own / default) if first == "top_k" and own and default else None


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


def filtered(logits: NDArray[np.float32], params: SampleParams) -> NDArray[np.float32]:
    """Logits [B, n] for a second draw: divided by the temperature, -inf where the filters leave nothing.

    Rows of temperature 0 stay as they are.
    """
    hot = params.temperature > 0
    scores = logits / np.where(hot, params.temperature, np.float32(1))[:, None]
    return np.where(hot[:, None] & (support(logits, params) == 0), np.float32(-np.inf), scores)


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
