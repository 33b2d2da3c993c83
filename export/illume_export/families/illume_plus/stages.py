"""The stages of a model of the `illume_plus` family, in the order in which a request goes through them.

Each is a rewritten module and is compared with the plain one. Tolerances are for float32 on both sides, as in
`language_stages.py`. FLOPs of stages that take any size are those of a picture of 512x512.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from illume_export.families.illume_plus.cases import STEPS, Cases, plain_inputs
from illume_export.families.illume_plus.models import IllumePlus
from illume_export.families.illume_plus.modules import CodeDecoder, CodeFinder, Conditioner, PictureEmbedder
from illume_export.families.illume_plus.rewrites import ScaledVaeDecoder, SplitUnet
from illume_export.families.illume_plus.specification import LATENTS_PER_CODE, segments_from_config
from illume_export.flops import flops_of_shapes
from illume_export.language_stages import OPSET, TOLERANCE, decoder_stage, head_stage
from illume_export.parity import max_abs_error
from illume_export.stage import Run, Stage
from illume_runtime.manifest import Flops, TensorSpec

DISTANCE_TOLERANCE = 1e-3  # of a code's distance: one may differ only where two are equally near within rounding
SIDE = 32  # codes of the fine level along 512 pixels
FEATURES = 18 * 18  # semantic features of 512x512 pixels
Outputs = dict[str, Tensor]


def stages_from_model(model: IllumePlus) -> tuple[Stage, ...]:
    """All stages; those of the diffusion decoder if the model has one."""
    cases = Cases(model)
    language = model.mllm.language_model
    diffusion = () if model.config.diffusion is None else (_conditioner, _denoiser, _vae_decoder)
    return (
        _vision_encoder(model, cases),
        decoder_stage(language, cases.prompt_embeds),
        *(
            head_stage(language, name, *bounds, lambda: cases.hidden)
            for name, bounds in segments_from_config(model.config).items()
        ),
        _image_tokenizer(model, cases),
        _vq_decoder(model, cases),
        *(make(model, cases) for make in diffusion),
    )


def _vision_encoder(model: IllumePlus, cases: Cases) -> Stage:
    module = PictureEmbedder(model.mllm)
    mllm = model.mllm

    def errors(run: Run) -> list[float]:
        found = []
        for picture in cases.pictures:
            with torch.no_grad():
                features = mllm.vision_tower(picture.feeds["pixel_values"], *plain_inputs(picture))
                expected = mllm.mm_projector(*features)[None]
            got = run(_arrays(picture.feeds))["image_embeds"]
            found.append(max_abs_error(got, expected.numpy()))
        return found

    width = model.config.language_model.hidden_size
    return Stage(
        name="vision_encoder",
        module=module,
        inputs=_eye_inputs(model),
        outputs=(TensorSpec("image_embeds", "float32", (1, "M + X*Y", width)),),
        opset=OPSET,
        flops=_flops("call", module, *_eye_shapes(model)),
        errors=errors,
        tolerance=TOLERANCE,
    )


def _image_tokenizer(model: IllumePlus, cases: Cases) -> Stage:
    module = CodeFinder(model.tokenizer)
    half = model.config.tokenizer.semantic.width // model.config.tokenizer.semantic.num_heads // 2
    merged = tuple(TensorSpec(name, "float32", ("M", half)) for name in ("merged_cos", "merged_sin"))

    def errors(run: Run) -> list[float]:
        """How much farther the found code is than the nearest one, at most, per picture."""
        tokenizer = model.tokenizer
        found = []
        for picture in cases.pictures:
            got = run(_arrays({**picture.feeds, **picture.merged}))
            with torch.no_grad():
                semantic = tokenizer.semantic_encoder(*plain_inputs(picture), *picture.merged.values())
                pixel = tokenizer.pixel_vectors(picture.feeds["pixel_values"])[0].flatten(1).T
                for name, vectors, quantizer in (
                    ("codes_level0", semantic, tokenizer.semantic_quantizer),
                    ("codes_level1", pixel, tokenizer.pixel_quantizer),
                ):
                    distances = torch.cdist(vectors, quantizer.codebook())
                    chosen = distances.gather(1, torch.from_numpy(got[name]).T)[:, 0]
                    found.append(float((chosen - distances.amin(dim=1)).max()))
        return found

    return Stage(
        name="image_tokenizer",
        module=module,
        inputs=(*_eye_inputs(model), *merged),
        outputs=(TensorSpec("codes_level0", "int64", (1, "M")), TensorSpec("codes_level1", "int64", (1, "X*Y"))),
        opset=OPSET,
        flops=_flops("call", module, *_eye_shapes(model), *((FEATURES, half),) * 2),
        errors=errors,
        tolerance=DISTANCE_TOLERANCE,
    )


def _vq_decoder(model: IllumePlus, cases: Cases) -> Stage:
    module = CodeDecoder(model.tokenizer)
    channels = model.config.tokenizer.code_dims

    def reference(feeds: Outputs) -> Outputs:
        return {"pixels": model.tokenizer.decode(feeds["code_map"]).clamp(-1.0, 1.0)}

    def inputs() -> list[Outputs]:
        first, second = cases.code_maps
        return [{"code_map": torch.cat((first, first.flip(-1)))}, {"code_map": second}]

    return Stage(
        name="vq_decoder",
        module=module,
        inputs=(TensorSpec("code_map", "float32", ("B", channels, "Y", "X")),),
        outputs=(TensorSpec("pixels", "float32", ("B", 3, "16*Y", "16*X")),),
        opset=OPSET,
        flops=_flops("row", module, (1, channels, SIDE, SIDE)),
        errors=_errors(reference, inputs),
        tolerance=TOLERANCE,
    )


def _conditioner(model: IllumePlus, cases: Cases) -> Stage:
    unet, diffusion = model.unet, model.config.diffusion
    assert unet is not None
    assert diffusion is not None
    module = Conditioner(unet, diffusion)
    channels, width = model.config.tokenizer.code_dims, diffusion.unet.channels[0]

    def reference(feeds: Outputs) -> Outputs:
        """The plain UNet's first convolution without its bias on codes alone; each block's own projection."""
        repeated = feeds["code_map"].repeat_interleave(LATENTS_PER_CODE, -1).repeat_interleave(LATENTS_PER_CODE, -2)
        empty = torch.zeros(len(repeated), diffusion.vae.latent_channels, *repeated.shape[-2:])
        bias = unet.conv_in.get_parameter("bias")[:, None, None]
        embedding = unet.embedding(feeds["time"], feeds["resolution"])
        shifts = [resnet.shift(embedding) for resnet in unet.residuals()]
        return {
            "code_features": unet.conv_in(torch.cat((empty, repeated), dim=1)) - bias,
            "shifts": torch.cat(shifts, dim=1),
        }

    def inputs() -> list[Outputs]:
        time = torch.tensor(STEPS)
        return [
            {"code_map": code_map, "time": time[: 3 - i], "resolution": torch.full((3 - i,), 11.0 - 4 * i)}
            for i, code_map in enumerate(cases.code_maps)
        ]

    return Stage(
        name="conditioner",
        module=module,
        inputs=(
            TensorSpec("code_map", "float32", ("B", channels, "Y", "X")),
            TensorSpec("time", "float32", ("K",)),
            TensorSpec("resolution", "float32", ("K",)),
        ),
        outputs=(
            TensorSpec("code_features", "float32", ("B", width, "4*Y", "4*X")),
            TensorSpec("shifts", "float32", ("K", sum(unet.shift_widths()))),
        ),
        opset=OPSET,
        flops=_flops("call", module, (1, channels, SIDE, SIDE), (20,), (20,)),
        errors=_errors(reference, inputs),
        tolerance=TOLERANCE,
    )


def _denoiser(model: IllumePlus, cases: Cases) -> Stage:
    unet, diffusion = model.unet, model.config.diffusion
    assert unet is not None
    assert diffusion is not None
    latents, width = diffusion.vae.latent_channels, diffusion.unet.channels[0]
    module, conditioner = SplitUnet(unet, latents), Conditioner(unet, diffusion)
    num_shifts = sum(unet.shift_widths())

    def errors(run: Run) -> list[float]:
        """With a guided batch, whose second row sees no codes, and with a single row."""
        found = []
        for rows, code_map in zip((2, 1), cases.code_maps, strict=True):
            codes = torch.cat((code_map, torch.zeros_like(code_map)))[:rows]
            time, size = torch.tensor(STEPS[1:2]), torch.tensor([3.0])
            noisy = cases.latents(code_map, rows)
            with torch.no_grad():
                features, shifts = conditioner(codes, time, size)
                repeated = codes.repeat_interleave(LATENTS_PER_CODE, -1).repeat_interleave(LATENTS_PER_CODE, -2)
                expected = unet(noisy, repeated, time.expand(rows), size.expand(rows))
            feeds = {"latents": noisy, "code_features": features, "shifts": shifts.expand(rows, -1)}
            found.append(max_abs_error(run(_arrays(feeds))["noise"], expected.numpy()))
        return found

    side = LATENTS_PER_CODE * SIDE
    return Stage(
        name="denoiser",
        module=module,
        inputs=(
            TensorSpec("latents", "float32", ("B", latents, "4*Y", "4*X")),
            TensorSpec("code_features", "float32", ("B", width, "4*Y", "4*X")),
            TensorSpec("shifts", "float32", ("B", num_shifts)),
        ),
        outputs=(TensorSpec("noise", "float32", ("B", latents, "4*Y", "4*X")),),
        opset=OPSET,
        flops=_flops("row", module, (1, latents, side, side), (1, width, side, side), (1, num_shifts)),
        errors=errors,
        tolerance=TOLERANCE,
    )


def _vae_decoder(model: IllumePlus, cases: Cases) -> Stage:
    vae, diffusion = model.vae, model.config.diffusion
    assert vae is not None
    assert diffusion is not None
    module = ScaledVaeDecoder(vae)
    channels, side = diffusion.vae.latent_channels, LATENTS_PER_CODE * SIDE

    def reference(feeds: Outputs) -> Outputs:
        return {"pixels": vae(feeds["latents"]).clamp(-1.0, 1.0)}

    def inputs() -> list[Outputs]:
        return [
            {"latents": cases.latents(code_map, rows)} for rows, code_map in zip((2, 1), cases.code_maps, strict=True)
        ]

    return Stage(
        name="vae_decoder",
        module=module,
        inputs=(TensorSpec("latents", "float32", ("B", channels, "4*Y", "4*X")),),
        outputs=(TensorSpec("pixels", "float32", ("B", 3, "32*Y", "32*X")),),
        opset=OPSET,
        flops=_flops("row", module, (1, channels, side, side)),
        errors=_errors(reference, inputs),
        tolerance=TOLERANCE,
    )


def _eye_inputs(model: IllumePlus) -> tuple[TensorSpec, ...]:
    vit = model.config.tokenizer.vit
    half = vit.head_dim // 2
    return (
        TensorSpec("pixel_values", "float32", (1, 3, "16*Y", "16*X")),
        TensorSpec("patches", "float32", ("4*M", 3 * vit.patch_size**2)),
        TensorSpec("cos", "float32", ("4*M", half)),
        TensorSpec("sin", "float32", ("4*M", half)),
    )


def _eye_shapes(model: IllumePlus) -> tuple[tuple[int, ...], ...]:
    vit = model.config.tokenizer.vit
    table = (4 * FEATURES, vit.head_dim // 2)
    return (1, 3, 16 * SIDE, 16 * SIDE), (4 * FEATURES, 3 * vit.patch_size**2), table, table


def _flops(per: str, module: nn.Module, *shapes: tuple[int, ...]) -> Flops:
    return Flops(per, flops_of_shapes(module, *shapes))  # type: ignore[arg-type]


def _arrays(tensors: Outputs) -> dict[str, np.ndarray]:
    return {name: tensor.contiguous().numpy() for name, tensor in tensors.items()}


def _errors(
    reference: Callable[[Outputs], Outputs], inputs: Callable[[], list[Outputs]]
) -> Callable[[Run], list[float]]:
    """The largest error of any output, per case."""

    def errors(run: Run) -> list[float]:
        found = []
        for feeds in inputs():
            with torch.no_grad():
                expected = reference(feeds)
            got = run(_arrays(feeds))
            found.append(max(max_abs_error(got[name], tensor.numpy()) for name, tensor in expected.items()))
        return found

    return errors
