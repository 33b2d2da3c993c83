"""The recipe of illume-tiny, phase by phase: every phase loads what the ones before it left, trains, and saves.

vision -> vae, tokenizer -> denoiser; vision, tokenizer -> stage1 -> stage2 -> stage3. The language model starts from
nothing here, where ILLUME starts from Vicuna: so the three stages train all of it and not only its new embeddings.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from illume_export.families.illume.loader import illume_from_checkpoint
from illume_export.families.illume.save import checkpoint_from_model
from illume_export.models import Illume, IllumeConfig
from illume_runtime.errors import UsageError
from illume_training import latent_pool
from illume_training.alignment import LanguageTrainer
from illume_training.autoencoder import crop_batch, measure_latents, vae_loss
from illume_training.code_contents import CodeContents, contents_of_codes
from illume_training.config import PHASES, TrainingConfig
from illume_training.corpus_lessons import DialogueCorpus, dialogue_corpus
from illume_training.dialogue import Writer
from illume_training.diffusion import flow_loss
from illume_training.kept import kept_tensors, write_tensors
from illume_training.lessons import Encode, Lessons, frozen_encoder, make_lessons
from illume_training.looking import asked_words
from illume_training.loop import Phase, run_phase
from illume_training.precision import has_bfloat16, products_in
from illume_training.quantizer import QuantizerTrainer, color_of_codes
from illume_training.start import WORDS, start_language_model
from illume_training.tokenizer import train_tokenizer
from illume_training.vision import CellProbe, pixels_from_pictures, probe_loss, vision_batch

GENERATION = {
    "describe": {"temperature": 0.0, "max_tokens": 96},
    "draw": {"temperature": 0.7, "top_k": 0, "top_p": 1.0, "guidance": 1.25, "steps": 10, "diffusion_guidance": 2.5},
    "edit": {"temperature": 0.0, "guidance": 1.5, "steps": 10, "diffusion_guidance": 2.5},
    "reconstruct": {"steps": 10, "diffusion_guidance": 2.5},
}
ASSESSING = {"assess": {"max_tokens": 256}}  # of a checklist; says that the model learnt to assess what it draws


@dataclass(frozen=True, slots=True)
class Recipe:
    """The model under training, and how each phase changes it."""

    config: TrainingConfig
    model: Illume
    probe: CellProbe
    device: torch.device
    start: Path | None = None  # the checkpoint that the model came from; None: freshly initialised

    @classmethod
    def new(cls, config: TrainingConfig, device: torch.device, start: Path | None = None) -> Recipe:
        """The model of the checkpoint `start`, or a freshly initialised one; the same for the same seed."""
        torch.manual_seed(config.seed)
        if start is None:
            model = Illume(IllumeConfig.tiny())
            nn.init.normal_(model.language_model.model.embed_tokens.weight, std=0.05)
        else:
            model = illume_from_checkpoint(start)
        probe = CellProbe(model.config.vision_encoder)
        return cls(config, model.to(device), probe.to(device), device, start)

    def run(self, phases: Sequence[str]) -> None:
        """Trains the phases in order; what an earlier phase left on disk is loaded first.

        Raises UsageError for a phase that cannot start: one before it is missing, or its probe is in no checkpoint.
        """
        if self.start is not None and (probed := [name for name in ("vision", "tokenizer") if name in phases]):
            raise UsageError(
                f"--from {self.start}: phase {probed[0]} needs the probe of the vision phase, which no checkpoint "
                "holds; train it from nothing"
            )
        for name in PHASES:
            if name in phases:
                self._before(name)
                getattr(self, f"_train_{name}")()

    def save(self) -> None:
        """Writes the checkpoint: weights of all phases, tokenizer, generation defaults."""
        for name in PHASES:
            self._load(name)
        taught = any(phase.mixture is not None and phase.mixture.checklist for phase in self.config.phases.values())
        generation = GENERATION | ASSESSING if taught else GENERATION
        checkpoint_from_model(self.model, self.config.output, tokenizer=self.tokenizer(), generation_config=generation)

    def tokenizer(self) -> Tokenizer:
        """The text tokenizer; trained once per run."""
        path = (self.start or self.config.run) / "tokenizer.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            train_tokenizer(self.model.config).save(str(temporary))
            shutil.move(temporary, path)
        return Tokenizer.from_file(str(path))

    def _before(self, name: str) -> None:
        needs = {
            "vision": (),
            "vae": (),
            "tokenizer": ("vision",),
            "denoiser": ("vision", "vae", "tokenizer"),
            "stage1": ("vision", "tokenizer"),
            "stage2": ("vision", "tokenizer", "stage1"),
            "stage3": ("vision", "tokenizer", "stage2"),
        }
        for earlier in needs[name]:
            self._load(earlier)

    def _module(self, name: str) -> nn.Module:
        if name == "vision":
            return nn.ModuleDict({"encoder": self.model.vision_encoder, "probe": self.probe})
        if name == "vae":
            return self.model.vae
        if name == "tokenizer":
            return QuantizerTrainer(self.model.image_tokenizer, self.probe)
        return self.model.denoiser if name == "denoiser" else LanguageTrainer(self.model)

    def _load(self, name: str) -> None:
        path = self.config.run / f"{name}.safetensors"
        if not path.exists():
            if self.start is not None:
                return
            raise UsageError(
                f"{path}: phase {name} has not finished; run it first (illume train CONFIG --phases {name})"
            )
        self._module(name).to(self.device).load_state_dict(load_file(path))

    def _product_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.config.mixed_precision and has_bfloat16(self.device) else torch.float32

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        return products_in(self._product_dtype(), self.device)

    def _phase(
        self,
        name: str,
        module: nn.Module,
        batch: Callable[[int], object],
        loss: Callable[..., tuple[Tensor, dict[str, float]]],
    ) -> None:
        schedule = self.config.phases[name].schedule
        phase = Phase(name, module, schedule, batch, loss, self._product_dtype())
        run_phase(phase, self.config.run, device=self.device)

    def _pictures(self, name: str, step: int) -> tuple[Tensor, Tensor, Tensor]:
        seed = f"{self.config.seed}-{name}-{step}"
        pictures, classes, offsets = vision_batch(seed, "train", self.config.phases[name].schedule.batch_size)
        labels = torch.from_numpy(classes).to(self.device), torch.from_numpy(offsets).to(self.device)
        return pixels_from_pictures(pictures).to(self.device), *labels

    def _train_vision(self) -> None:
        def loss(data: tuple[Tensor, Tensor, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
            return probe_loss(self.probe(self.model.vision_encoder(data[0])), data[1], data[2]), {}

        self._phase("vision", self._module("vision"), lambda step: self._pictures("vision", step), loss)

    def _train_vae(self) -> None:
        vae = self.model.vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        size = self.config.phases["vae"].schedule.batch_size

        def batch(step: int) -> Tensor:
            crops = crop_batch(f"{self.config.seed}-vae-{step}", size)
            return pixels_from_pictures(crops).to(self.device, memory_format=torch.channels_last)

        vae.latent_mean.zero_()  # measured anew before the denoiser is trained
        vae.latent_std.fill_(1.0)
        self._phase("vae", vae, batch, lambda pixels, step: vae_loss(vae, pixels))

    def _train_tokenizer(self) -> None:
        trainer = QuantizerTrainer(self.model.image_tokenizer, self.probe)

        def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
            pixels, classes, offsets = self._pictures("tokenizer", step)
            with torch.no_grad(), self._precision():
                return self.model.vision_encoder(pixels).float(), classes, offsets

        def loss(data: tuple[Tensor, Tensor, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
            features, classes, offsets = data
            return trainer.loss(features, classes, offsets, step)

        self._phase("tokenizer", trainer, batch, loss)

    def _train_denoiser(self) -> None:
        model = self.model.requires_grad_(False)
        model.denoiser.requires_grad_(True)
        if float(model.vae.latent_std.std()) == 0.0:
            pixels = pixels_from_pictures(vision_batch(f"{self.config.seed}-latents", "train", 256)[0])
            measure_latents(model.vae, pixels.to(self.device))
            if not model.image_tokenizer.code_color.any():
                self._paint_codes()
            write_tensors(self.config.run / "vae.safetensors", model.vae.state_dict())  # last: says that it is done

        pool = kept_tensors(
            self.config.run / "latents.safetensors",
            [*self._code_weights(), *model.vae.state_dict().values()],
            lambda: latent_pool.encoded_pictures(
                model, f"{self.config.seed}-denoiser", self._product_dtype(), latent_pool.PICTURES
            ),
        )
        denoiser = torch.compile(model.denoiser) if self.config.compile else model.denoiser
        size = self.config.phases["denoiser"].schedule.batch_size

        def batch(step: int) -> tuple[Tensor, Tensor]:
            return latent_pool.pool_batch(pool, size, self.config.seed * 1_000_033 + step, self.device)

        def loss(data: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
            code_map = model.image_tokenizer.code_map(data[1])
            return flow_loss(denoiser, data[0], code_map, drop=0.1, seed=self.config.seed * 1_000_003 + step)

        self._phase("denoiser", model.denoiser, batch, loss)

    def _train_stage1(self) -> None:
        if self.start is None:
            torch.manual_seed(self.config.seed)
            pixels = pixels_from_pictures(vision_batch(f"{self.config.seed}-start", "train", 256)[0])
            with torch.no_grad():
                features = self.model.vision_encoder(pixels.to(self.device))
            ids = [Writer(self.model.config, self.tokenizer()).token(word) for word in WORDS]
            start_language_model(self.model, self.probe, features, ids, self._contents())
        self._stage("stage1")

    def _train_stage2(self) -> None:
        self._stage("stage2")

    def _train_stage3(self) -> None:
        self._stage("stage3")

    def _stage(self, name: str) -> None:
        writer = Writer(self.model.config, self.tokenizer())
        depicting, asked = self._contents().depicting, asked_words(writer)
        trainer = LanguageTrainer(self.model, depicting, asked, compiled=self.config.compile).requires_grad_(True)
        self.model.vision_encoder.requires_grad_(False)
        encode = self._encode()
        mixture = self.config.phases[name].mixture
        assert mixture is not None

        corpus = self._corpus(name, writer)

        def batch(step: int) -> Lessons:
            return make_lessons(f"{self.config.seed}-{name}-{step}", mixture, writer, encode, corpus)

        # Chosen once: the choice holds for all threads, also the one that makes the next batch meanwhile.
        with sdpa_kernel(SDPBackend.MATH if self.device.type == "cpu" else SDPBackend.EFFICIENT_ATTENTION):
            self._phase(name, trainer, batch, lambda lessons, step: trainer.loss(lessons))

    def _corpus(self, name: str, writer: Writer) -> DialogueCorpus | None:
        """The dialogues of a stage. Raises UsageError where the mixture asks for a kind that they do not hold."""
        phase = self.config.phases[name]
        if phase.corpus is None or phase.mixture is None:
            return None
        corpus = dialogue_corpus(phase.corpus, writer)
        for kind in ("checklist", "assess", "correct"):
            count = getattr(phase.mixture, kind)
            if count and not getattr(corpus, kind):
                raise UsageError(
                    f"{phase.corpus}: has no dialogue of the kind {kind}, of which {name} mixes in {count}"
                )
        return corpus

    def _encode(self) -> Encode:
        return frozen_encoder(self.model.vision_encoder, self.model.image_tokenizer.encode, self.device)

    def _contents(self) -> CodeContents:
        """What the codes show."""
        num_codes = self.model.image_tokenizer.codebook.shape[0]
        counts = kept_tensors(
            self.config.run / "contents.safetensors",
            self._code_weights(),
            lambda: asdict(contents_of_codes(self._encode(), num_codes, f"{self.config.seed}-contents")),
        )
        return CodeContents(**counts)

    def _code_weights(self) -> list[Tensor]:
        """The weights that say which code a cell gets."""
        tokenizer = self.model.image_tokenizer
        project = tokenizer.project.state_dict().values()
        return [*self.model.vision_encoder.state_dict().values(), *project, tokenizer.codebook]

    @torch.no_grad()
    def _paint_codes(self) -> None:
        tokenizer, seen = self.model.image_tokenizer, []
        for part in range(12):
            pixels = pixels_from_pictures(vision_batch(f"{self.config.seed}-colors-{part}", "train", 128)[0])
            seen.append((tokenizer.encode(self.model.vision_encoder(pixels.to(self.device))), pixels))
        codes, pixels = (torch.cat(parts) for parts in zip(*seen, strict=True))
        tokenizer.code_color.copy_(color_of_codes(codes, pixels.to(self.device), tokenizer.codebook.shape[0]))
        write_tensors(self.config.run / "tokenizer.safetensors", self._module("tokenizer").state_dict())
