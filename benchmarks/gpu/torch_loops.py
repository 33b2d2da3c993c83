"""The loops of a picture in PyTorch, on any of its devices: as the public reference runs them, and compiled.

`reference_codes` is `guided_codes`: two passes a step, caches that grow, the whole head, forced tokens one by one.
`StaticLoop` is what its users would make of it with `torch.compile`: both sides in one batch, a cache of fixed size,
compiled layers and sampler, a step as one CUDA graph; head, mask and filters still see the whole vocabulary. The
diffusion is a plain loop over the denoiser, which is compiled or not.

Shapes: B pictures, R = 2 B rows, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.eager_side import sampled
from benchmarks.gpu.static_decoder import LayerStep, StaticDecoder
from illume_export.families.illume.eager import picture_grammar as grammar_of_illume
from illume_export.families.illume.loader import illume_from_checkpoint
from illume_export.families.illume_plus.config import PlusConfig
from illume_export.families.illume_plus.eager import picture_grammar as grammar_of_plus
from illume_export.families.illume_plus.models.unet import TEXT_TOKENS, Unet
from illume_export.families.illume_plus.published import LANGUAGE_MODELS, published_config
from illume_export.families.illume_plus.resolutions import SIZES
from illume_export.models.language_model import LanguageModel
from illume_export.sequences import Choose, guided_codes

Denoise = Callable[[Tensor, Tensor], Tensor]
"""The denoiser's output for scaled latents [R, C, Y, X] and times [R]."""
Through = Callable[[Any], Any]
Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The next tokens [B] from the last ones, their place [1], and the legal ids [V]."""

Chosen = Callable[[Tensor, Tensor], Tensor]
"""Tokens [B] from states [R, D] and the legal ids [V]."""

PROMPT = 32  # ids of each side
GUIDANCE = 2.0
FILTERS: Mapping[str, float] = {"temperature": 1.0, "top_k": 2048, "top_p": 0.8}


@dataclass(frozen=True, slots=True)
class TorchModel:
    """What the loops need of a model. `grammar` are the legal ids [start, end) of each token of a picture.

    `denoise_through` gives the denoiser whose module went through what is given: a compiler, say.
    """

    name: str
    language_model: LanguageModel
    grammar: Sequence[tuple[int, int]]
    denoise_through: Callable[[Through], Denoise]
    latent_shape: tuple[int, int, int]
    device: str

    @property
    def denoise(self) -> Denoise:
        """The denoiser as it is."""
        return self.denoise_through(lambda module: module)

    def prompts(self) -> tuple[Tensor, Tensor]:
        """Embeddings [1, PROMPT, D] of both sides' random words."""
        generator = torch.Generator().manual_seed(1)
        limit = min(start for start, _ in self.grammar)
        ids = torch.randint(limit, (2, 1, PROMPT), generator=generator).to(self.device)
        return self.language_model.embed(ids[0]), self.language_model.embed(ids[1])


def model_by_name(name: str, device: str, dtype: torch.dtype) -> TorchModel:
    """A published model with weights that are made on the device from a seed, or a checkpoint of illume in a folder."""
    if name in LANGUAGE_MODELS:
        return plus_model(published_config(name), device, dtype)
    model = illume_from_checkpoint(Path(name)).to(device=device, dtype=dtype).eval()
    config = model.config
    codes = torch.zeros(1, config.grid_size, config.grid_size, dtype=torch.int64, device=device)
    with torch.inference_mode():
        code_map = model.image_tokenizer.code_map(codes)
    both = torch.cat((code_map, torch.zeros_like(code_map)))

    def denoise_through(through: Through) -> Denoise:
        denoiser = through(model.denoiser)

        def denoise(latents: Tensor, times: Tensor) -> Tensor:
            with torch.autocast(latents.device.type, dtype, enabled=dtype != torch.float32):
                velocity: Tensor = denoiser(latents, times, both)
                return velocity

        return denoise

    latent_shape = (config.vae.latent_channels, config.latent_size, config.latent_size)
    return TorchModel(
        name, model.language_model, list(grammar_of_illume(config)), denoise_through, latent_shape, device
    )


def plus_model(config: PlusConfig, device: str, dtype: torch.dtype) -> TorchModel:
    """Random weights of these sizes; a picture of the first resolution, which the UNet draws at twice its size."""
    assert config.diffusion is not None
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            language_model, unet = LanguageModel(config.language_model), Unet(config.diffusion.unet)
    finally:
        torch.set_default_dtype(before)
    size = SIZES[0]
    places = 2 * max(size.height, size.width) // 8  # latents of the VAE, 8 pixels each
    channels = config.diffusion.vae.latent_channels
    code_map = torch.zeros(2, config.diffusion.unet.in_channels - channels, places, places, device=device, dtype=dtype)
    grammar = list(grammar_of_plus(config.vocabulary, size))
    return TorchModel(
        config.name,
        language_model.eval(),
        grammar,
        unet_denoising(unet.eval(), code_map),
        (channels, places, places),
        device,
    )


def unet_denoising(unet: Unet, code_map: Tensor) -> Callable[[Through], Denoise]:
    """The UNet as a denoiser of a guided picture.

    What it makes on the default device is made outside of it, so that a compiler sees one graph on one device.
    """
    device, dtype = code_map.device, code_map.dtype
    text = torch.zeros(len(code_map), TEXT_TOKENS, unet.config.context_width, device=device)
    resolution = torch.zeros(len(code_map), device=device)
    embedding_of = unet.embedding
    held: dict[str, Tensor] = {}
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        for attention in block.attentions:
            attention.register_forward_pre_hook(lambda _, given: (given[0], text))
    unet.embedding = lambda times, numbers: held["embedding"]  # type: ignore[method-assign, assignment]

    def denoise_through(through: Through) -> Denoise:
        used = through(unet)

        def denoise(latents: Tensor, times: Tensor) -> Tensor:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                with torch.device(device):
                    held["embedding"] = embedding_of(times, resolution)
                noise: Tensor = used(latents, code_map, times, resolution)
                return noise

        return denoise

    return denoise_through


def drawn_from_filters(scores: Tensor) -> Tensor:
    """Tokens [B] of scores [B, V] by FILTERS, over the whole vocabulary."""
    return sampled(scores, FILTERS)


def drawn_by_race(scores: Tensor) -> Tensor:
    """The same choice, quicker: top-p among the top-k alone, and a race of exponentials as gpt-fast draws.

    For `torch.multinomial` the host waits, so that it is no part of a CUDA graph.
    """
    top_k = min(int(FILTERS["top_k"]), scores.shape[-1])
    values, ids = (scores.float() / FILTERS["temperature"]).topk(top_k)
    shares = values.softmax(-1)
    shares = torch.where(shares.cumsum(-1) - shares >= FILTERS["top_p"], 0.0, shares)
    winner = (shares / torch.empty_like(shares).exponential_(1)).argmax(-1, keepdim=True)
    return ids.gather(-1, winner)[:, 0]


@torch.inference_mode()
def reference_codes(model: TorchModel, choose: Choose, num_tokens: int | None = None) -> Tensor:
    """Codes [1, n] of one picture, or of its first tokens, as the public reference draws them."""
    grammar = model.grammar[:num_tokens]
    return guided_codes(model.language_model, *model.prompts(), grammar, guidance=GUIDANCE, choose=choose)


class StaticLoop:
    """The token loop with a cache of fixed size, both sides in one batch.

    `layer` is one layer, compiled or not; `compiled` is given what stands behind the layers, `captured` the step.
    """

    def __init__(
        self,
        model: TorchModel,
        choose: Choose,
        layer: LayerStep,
        compiled: Callable[[Chosen], Chosen] = lambda chosen: chosen,
        captured: Callable[[Step], Step] = lambda step: step,
    ) -> None:
        self._model, self._choose = model, choose
        language_model = model.language_model
        self._decoder = StaticDecoder(language_model, 2, PROMPT + len(model.grammar), layer)
        vocabulary = language_model.config.vocab_size
        device = language_model.model.norm.weight.device
        ids = torch.arange(vocabulary, device=device)
        self._legal = {(start, end): (ids >= start) & (ids < end) for start, end in set(model.grammar)}
        self._places = torch.arange(self._decoder.num_slots, device=device)
        self._compiled_choice = compiled(self._chosen)
        self._step = captured(self._next)

    @torch.inference_mode()
    def codes(self, num_tokens: int | None = None, on_prefilled: Callable[[], None] = lambda: None) -> Tensor:
        """Codes [1, n] of one picture, or of its first tokens."""
        states = self._decoder.states(torch.cat(self._model.prompts()), self._places[:PROMPT])
        on_prefilled()
        codes: list[Tensor] = []
        tokens: Tensor | None = None
        for i, (start, end) in enumerate(self._model.grammar[:num_tokens]):
            legal = self._legal[start, end]
            if tokens is None:
                tokens = self._chosen(states, legal)
            else:
                tokens = self._step(tokens, self._places[PROMPT + i - 1 : PROMPT + i], legal).clone()
            if end - start > 1:
                codes.append(tokens - start)
        return torch.stack(codes, 1)

    def _next(self, tokens: Tensor, place: Tensor, legal: Tensor) -> Tensor:
        embeds = self._model.language_model.embed(tokens[:, None])
        return self._compiled_choice(self._decoder.states(embeds.repeat(2, 1, 1), place), legal)

    def _chosen(self, states: Tensor, legal: Tensor) -> Tensor:
        language_model = self._model.language_model
        logits = language_model.logits(states, 0, language_model.config.vocab_size)
        cond, uncond = logits.log_softmax(-1).chunk(2)
        scores = uncond + GUIDANCE * (cond - uncond)
        return self._choose(scores.masked_fill(~legal, float("-inf")))


@torch.inference_mode()
def denoised(model: TorchModel, denoise: Denoise, num_steps: int) -> Tensor:
    """Latents [1, C, Y, X] after so many guided steps of Euler's method, from time 1 to 0."""
    x = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(0)).to(model.device)
    for i in range(num_steps):
        times = torch.full((2,), 1.0 - i / num_steps, device=x.device)
        cond, uncond = denoise(torch.cat((x, x)), times).float().chunk(2)
        x = x - (uncond + GUIDANCE * (cond - uncond)) / num_steps
    return x
