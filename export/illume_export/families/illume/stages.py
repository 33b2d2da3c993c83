"""The stages of a model of the `illume` family, in the order in which a request goes through them.

Tolerances are for float32 on both sides: outputs are of the size 1 to 30, sums have up to some thousand terms, and
kernels add in another order; that makes about 1e-5, and a wrong graph is wrong by far more than 1e-3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from illume_export.families.illume.cases import Cases
from illume_export.families.illume.modules import CodeFinder, ImageEmbedder, LatentDecoder
from illume_export.families.illume.specification import segments_from_config
from illume_export.flops import flops_of_shapes
from illume_export.language_stages import OPSET, TOLERANCE, decoder_stage, head_stage
from illume_export.models import Illume
from illume_export.parity import module_errors
from illume_export.stage import Run, Stage
from illume_runtime.manifest import Flops, TensorSpec

SIMILARITY_TOLERANCE = 1e-5  # cosine: a code may differ only where two are equally near within rounding
TIMES = (0.0, 0.35, 1.0)


def stages_from_model(model: Illume) -> tuple[Stage, ...]:
    """All stages."""
    cases = Cases(model)
    return (
        _vision_encoder(model, cases),
        decoder_stage(model.language_model, cases.prompt_embeds),
        *(
            head_stage(model.language_model, name, *bounds, lambda: cases.hidden)
            for name, bounds in segments_from_config(model.config).items()
        ),
        _image_tokenizer(model, cases),
        _denoiser(model, cases),
        _vae_decoder(model, cases),
    )


def _vision_encoder(model: Illume, cases: Cases) -> Stage:
    c = model.config
    module = ImageEmbedder(model)
    return Stage(
        name="vision_encoder",
        module=module,
        inputs=(_pixels("pixel_values", c.image_size),),
        outputs=(TensorSpec("image_embeds", "float32", ("B", c.num_patches, c.language_model.hidden_size)),),
        opset=OPSET,
        flops=Flops("row", flops_of_shapes(module, (1, 3, c.image_size, c.image_size))),
        errors=module_errors(
            lambda pixel_values: model.adapter(model.vision_encoder(pixel_values)),
            lambda: [{"pixel_values": cases.pixels}, {"pixel_values": cases.pixels[:1]}],
        ),
        tolerance=TOLERANCE,
    )


def _image_tokenizer(model: Illume, cases: Cases) -> Stage:
    c = model.config
    module = CodeFinder(model)

    def errors(run: Run) -> list[float]:
        """How much less similar the found code is than the most similar one, per picture."""
        codes = torch.from_numpy(run({"pixel_values": cases.pixels.numpy()})["codes"]).flatten(1)
        with torch.no_grad():
            tokenizer = model.image_tokenizer
            similarity = tokenizer.vectors(cases.features) @ tokenizer.code_vectors().T
        lost = similarity.amax(-1) - similarity.gather(-1, codes[:, :, None])[..., 0]
        return [float(picture.max()) for picture in lost]

    return Stage(
        name="image_tokenizer",
        module=module,
        inputs=(_pixels("pixel_values", c.image_size),),
        outputs=(TensorSpec("codes", "int64", ("B", c.grid_size, c.grid_size)),),
        opset=OPSET,
        flops=Flops("row", flops_of_shapes(module, (1, 3, c.image_size, c.image_size))),
        errors=errors,
        tolerance=SIMILARITY_TOLERANCE,
    )


def _denoiser(model: Illume, cases: Cases) -> Stage:
    c = model.config
    latents = (c.vae.latent_channels, c.latent_size, c.latent_size)
    code_map = (c.image_tokenizer.code_dim, c.grid_size, c.grid_size)

    def inputs() -> list[dict[str, Tensor]]:
        times = torch.tensor(TIMES)
        mixed = torch.lerp(cases.latents, cases.noise, times[:, None, None, None])
        unconditional = torch.zeros_like(cases.code_maps[:1])
        return [
            {"latents": mixed, "time": times, "code_map": cases.code_maps},
            {"latents": cases.noise[:1], "time": torch.tensor([0.9]), "code_map": unconditional},
        ]

    return Stage(
        name="denoiser",
        module=model.denoiser,
        inputs=(
            TensorSpec("latents", "float32", ("B", *latents)),
            TensorSpec("time", "float32", ("B",)),
            TensorSpec("code_map", "float32", ("B", *code_map)),
        ),
        outputs=(TensorSpec("velocity", "float32", ("B", *latents)),),
        opset=OPSET,
        flops=Flops("row", flops_of_shapes(model.denoiser, (1, *latents), (1,), (1, *code_map))),
        errors=module_errors(model.denoiser, inputs),
        tolerance=TOLERANCE,
    )


def _vae_decoder(model: Illume, cases: Cases) -> Stage:
    c = model.config
    latents = (c.vae.latent_channels, c.latent_size, c.latent_size)
    module = LatentDecoder(model)
    return Stage(
        name="vae_decoder",
        module=module,
        inputs=(TensorSpec("latents", "float32", ("B", *latents)),),
        outputs=(_pixels("pixels", c.image_size),),
        opset=OPSET,
        flops=Flops("row", flops_of_shapes(module, (1, *latents))),
        errors=module_errors(
            lambda latents: model.vae.decode(latents).clamp(-1.0, 1.0),
            lambda: [{"latents": cases.latents}, {"latents": cases.noise[:1]}],
        ),
        tolerance=TOLERANCE,
    )


def _pixels(name: str, size: int) -> TensorSpec:
    return TensorSpec(name, "float32", ("B", 3, size, size))
