"""The model in the folders of a checkpoint, or one error that names everything wrong with them.

Names, shapes and types of all parts are checked before a weight is read. Weights are stored as float16, bfloat16 or
float32 and compute as float32. Those of a small model are read at once; of a large one each stays on disk until it is
needed, and is let go of then.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import nn

from illume_export.checkpoint import Precision
from illume_export.deferred import values_of
from illume_export.families.illume_plus.config import PlusConfig
from illume_export.families.illume_plus.models import IllumePlus
from illume_export.families.illume_plus.models.dualvitok import DualViTok, SimVq
from illume_export.families.illume_plus.models.plus import Mllm
from illume_export.families.illume_plus.models.unet import Unet
from illume_export.families.illume_plus.models.vae_decoder import VaeDecoder
from illume_export.families.illume_plus.naming import Matching, bare_name, matching_of
from illume_export.families.illume_plus.parts import (
    diffusion_from_folder,
    language_model_from_json,
    tokenizer_from_folder,
)
from illume_export.families.illume_plus.roles import MODEL_TYPE, check_roles
from illume_export.families.illume_plus.vocabulary import vocabulary_from_file
from illume_export.json_object import json_object_from_file
from illume_export.models import LanguageModelConfig
from illume_export.models.language_model import rope_tables
from illume_export.weights import Weights, deferred_from_weights, weights_from_folder
from illume_runtime.errors import InvalidCheckpointError

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
IGNORED = {
    "mllm": (r"rotary_emb\.inv_freq$",),
    "tokenizer": (r"^semantic_decoder\.", r"^loss\.", r"^discriminator"),
    "unet": (),
    "vae": (r"^encoder\.", r"^quant_conv\."),
}
# The end of a name that only this part has.
SIGNATURES = {
    "mllm": "embed_tokens.weight",
    "tokenizer": "semantic_quantizer.frozen_codebook",
    "unet": "add_embedding.linear_1.weight",
    "vae": "decoder.conv_norm_out.weight",
}
MIN_CODE_SPREAD = 1e-6
MAX_RESIDENT_WEIGHTS = 250_000_000  # of all parts; a gigabyte of float32
PRECISIONS: dict[str, Precision] = {"F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the parts of a checkpoint are: the language model, the tokenizer, and the diffusion decoder if there."""

    mllm: Path
    tokenizer: Path
    decoder: Path | None = None

    def by_role(self) -> dict[str, Path]:
        """The folders that there are, by the part that they stand for."""
        found = {"mllm": self.mllm, "tokenizer": self.tokenizer, "decoder": self.decoder}
        return {role: folder for role, folder in found.items() if folder is not None}


@dataclass(frozen=True, slots=True)
class _Part:
    """One network: its stored tensors and the parameters that they become; `prefix` is what our names add."""

    name: str
    weights: Weights
    matching: Matching
    prefix: str = ""


def plus_from_folders(folders: Folders) -> IllumePlus:
    """The model, float32, in evaluation mode, its weights deferred if they are many. Raises InvalidCheckpointError."""
    config, parts = _checked(folders)
    resident = sum(prod(t.shape) for part in parts for t in part.weights.tensors.values()) <= MAX_RESIDENT_WEIGHTS
    with torch.device("meta"):
        model = IllumePlus(config)
    targets: dict[str, nn.Module | None] = {
        "mllm": model.mllm,
        "tokenizer": model.tokenizer,
        "unet": model.unet,
        "vae": model.vae,
    }
    faults: list[str] = []
    for part in parts:
        target = targets[part.name]
        assert target is not None
        faults += _load(target, part, resident)
    language = model.mllm.language_model
    language.cos, language.sin = rope_tables(config.language_model)  # computed, not stored
    faults += [
        f"{folders.tokenizer}: {fault}"
        for name in ("semantic_quantizer", "pixel_quantizer")
        for fault in _codebook_faults(name, getattr(model.tokenizer, name))
    ]
    _raise_if_any(faults)
    return model.eval()


def precision_of(folders: Folders) -> Precision:
    """The type in which most numbers of the language model are stored."""
    counts: dict[str, int] = {}
    for tensor in weights_from_folder(folders.mllm).tensors.values():
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + prod(tensor.shape)
    return PRECISIONS.get(max(counts, key=lambda dtype: counts[dtype]), "float32")


def config_from_folders(folders: Folders) -> PlusConfig:
    """The configuration; no weight is read but the head where it may equal the embedding."""
    return _checked(folders)[0]


def _checked(folders: Folders) -> tuple[PlusConfig, list[_Part]]:
    check_roles(folders.by_role())
    path = folders.mllm / "config.json"
    data = json_object_from_file(path)
    if data.get("model_type") != MODEL_TYPE:
        raise InvalidCheckpointError(f"{path}: model_type is {data.get('model_type')!r}, expected {MODEL_TYPE!r}")
    tokenizer = tokenizer_from_folder(folders.tokenizer)
    diffusion = diffusion_from_folder(folders.decoder) if folders.decoder is not None else None
    try:
        language = language_model_from_json(data)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InvalidCheckpointError(f"{path}: has no sizes of a Qwen2 decoder ({error!r})") from error
    vocabulary = vocabulary_from_file(folders.mllm / "tokenizer.json", tokenizer.num_codes, data)
    tower = data.get("mm_vision_tower")
    limits = {key: int(tower[key]) for key in ("min_pixels", "max_pixels") if isinstance(tower, dict) and key in tower}
    config = PlusConfig(
        name=folders.mllm.resolve().name,
        language_model=language,
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        diffusion=diffusion,
        rope_type=str(data.get("torch_dtype", "float32")),
        **limits,
    )
    faults = _consistency_faults(config)
    _raise_if_any([f"{path}: {fault}" for fault in faults])
    parts = _matched(folders, config)
    _raise_if_any([f"{part.weights.folder}: {fault}" for part in parts for fault in part.matching.faults])
    tied = _shares_head(parts[0], language)
    return dataclasses.replace(config, language_model=dataclasses.replace(language, tie_word_embeddings=tied)), parts


def _consistency_faults(config: PlusConfig) -> list[str]:
    """What the parts must say of each other."""
    tokenizer, vocabulary = config.tokenizer, config.vocabulary
    faults = []
    if vocabulary.level1[1] > config.language_model.vocab_size:
        faults.append(
            f"vocab_size is {config.language_model.vocab_size}, the codes need {vocabulary.level1[1]}; "
            "use parts of the same model"
        )
    if config.diffusion is not None:
        expected = config.diffusion.vae.latent_channels + tokenizer.code_dims
        if config.diffusion.unet.in_channels != expected:
            faults.append(
                f"the decoder's unet takes {config.diffusion.unet.in_channels} channels, expected {expected}: "
                f"{config.diffusion.vae.latent_channels} of latents and {tokenizer.code_dims} of codes"
            )
    return faults


def _matched(folders: Folders, config: PlusConfig) -> list[_Part]:
    places = {"mllm": folders.mllm, "tokenizer": folders.tokenizer}
    if folders.decoder is not None:
        places |= {"unet": folders.decoder / "unet", "vae": folders.decoder / "vae"}
    parts = []
    for name, folder in places.items():
        weights = weights_from_folder(folder)
        _check_role(name, weights)
        if name == "mllm":
            _check_width(weights, config.language_model.hidden_size)
        prefix = "language_model." if name == "mllm" else ""
        expected = _expected_shapes(name, config)
        optional = (HEAD,) if config.language_model.tie_word_embeddings else ()
        matching = matching_of(weights, expected, ignored=IGNORED[name], optional=optional)
        parts.append(_Part(name, weights, matching, prefix))
    return parts


def _expected_shapes(name: str, config: PlusConfig) -> dict[str, tuple[int, ...]]:
    """Parameter -> shape of one part. The head is among them; it may be missing where it is tied."""
    with torch.device("meta"):
        if name == "mllm":
            untied = dataclasses.replace(config.language_model, tie_word_embeddings=False)
            module: nn.Module = Mllm(dataclasses.replace(config, language_model=untied))
        elif name == "tokenizer":
            module = DualViTok(config.tokenizer)
        else:
            assert config.diffusion is not None
            module = Unet(config.diffusion.unet) if name == "unet" else VaeDecoder(config.diffusion.vae)
    return {key.removeprefix("language_model."): tuple(value.shape) for key, value in module.state_dict().items()}


def _check_role(name: str, weights: Weights) -> None:
    """Raise where a folder holds another part than the one it was given for."""
    bare = [bare_name(stored) for stored in weights.tensors]
    held = [part for part, end in SIGNATURES.items() if any(stored.endswith(end) for stored in bare)]
    if held and name not in held:
        raise InvalidCheckpointError(
            f"{weights.folder}: holds the weights of {' and '.join(held)}, expected those of {name}; "
            "check which folder stands for --mllm, --tokenizer and --decoder"
        )


def _check_width(weights: Weights, width: int) -> None:
    """Raise where tensors are those of a model of another width: one error instead of one fault per tensor."""
    ends = (EMBEDDING, "input_layernorm.weight", "model.norm.weight")
    found = {t.shape[-1] for t in weights.tensors.values() if t.shape and bare_name(t.name).endswith(ends)}
    if found - {width}:
        raise InvalidCheckpointError(
            f"{weights.folder}: holds layers of the widths {sorted(found)}, config.json says {width}: files of models "
            "of different sizes are mixed (3B is 2048 wide, 7B is 3584); copy all files of one again"
        )


def _shares_head(part: _Part, language: LanguageModelConfig) -> bool:
    """Whether head and embedding are one matrix: equal bit by bit, or no head is stored and config.json ties them."""
    sources = part.matching.sources
    if HEAD not in sources:
        return language.tie_word_embeddings
    head, embedding = part.weights.read(sources[HEAD]), part.weights.read(sources[EMBEDDING])
    return head.dtype == embedding.dtype and torch.equal(head, embedding)


def _load(module: nn.Module, part: _Part, resident: bool) -> list[str]:
    """Give the module its weights; of resident ones the names of those that are not finite."""
    state: dict[str, torch.Tensor] = {}
    faults = []
    for name in module.state_dict():
        source = part.matching.sources[name.removeprefix(part.prefix)]
        state[name] = deferred_from_weights(part.weights, source)
        if resident:
            state[name] = values_of(state[name])
            if not torch.isfinite(state[name]).all():
                faults.append(f"{part.weights.folder}: NaN or infinity in {source}")
    module.load_state_dict(state, assign=True)
    return faults


def _codebook_faults(name: str, quantizer: SimVq) -> list[str]:
    """A codebook that says nothing: all codes alike in some direction after the transform, or all in one point."""
    with torch.no_grad():
        spread = quantizer.codebook().std(dim=0)
    if float(spread.max()) < MIN_CODE_SPREAD:
        return [f"{name}: all codes are equal; the codebook was not saved, or its transform is zero"]
    return []


def _raise_if_any(faults: list[str]) -> None:
    if faults:
        raise InvalidCheckpointError(
            f"{len(faults)} faults: {'; '.join(faults)}; use folders whose files were saved together"
        )


def folders_in(folder: Path) -> Folders:
    """The parts as subfolders of one folder: `mllm`, `dualvitok`, `sdxl_decoder`."""
    decoder = folder / "sdxl_decoder"
    return Folders(folder / "mllm", folder / "dualvitok", decoder if decoder.is_dir() else None)


def holds(folder: Path) -> bool:
    """Whether a folder has the parts of this family's checkpoint as subfolders."""
    return all((folder / part).is_dir() for part in ("mllm", "dualvitok"))
