"""The model the slow way: plain PyTorch over the whole sequence for every token, the whole vocabulary under a mask.

Guidance takes two passes. Grammar and prompts are read from `bundle.json` here anew, so that nothing is shared with the
runtime but the definition of one draw (`illume_kernels.oracle.sample`).
"""

import json

import numpy as np
import torch
from tokenizers import Tokenizer

from illume_kernels.oracle import sample


class SlowModel:
    """Sequences are embeddings [T, D]; a picture is uint8 [Y, X, 3], or a list of ids if the model drew it."""

    def __init__(self, model, folder):
        self.model = model
        self.data = json.loads((folder / "bundle.json").read_text())
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.controls = self.data["vocabulary"]["controls"]
        self.segments = {s["name"]: range(s["start"], s["end"]) for s in self.data["vocabulary"]["segments"]}

    def prompt(self, *turns, unconditional=False):
        """The sequence of ("user", text, pictures...) and ("assistant", text or ids), up to where the answer begins."""
        prompts = self.data["prompts"]
        parts = self._template(prompts["begin"], "", ())
        for role, said, *pictures in turns:
            if role == "user":
                parts += self._template(prompts["user"], "" if unconditional else said, pictures)
            else:
                parts.append(self._embed(self._ids(said) if isinstance(said, str) else said))
                parts += self._template(prompts["end"], "", ())
        return torch.cat(parts)

    def draw(self, conditional, unconditional, params, guidance):
        """All ids of a picture, forced ones included; each is chosen among the whole vocabulary under a mask."""
        (resolution,) = self.data["grammar"]["image"]["resolutions"]
        ids, step = [], 0
        for allowed in self._allowed(resolution["output"]):
            cond, uncond = self._logits(conditional), self._logits(unconditional)
            masked = np.full_like(cond, -np.inf)
            masked[allowed] = (uncond + guidance * (cond - uncond))[allowed]
            ids.append(int(sample(masked[None], params.at_step(step))[0]))
            step += len(allowed) > 1
            conditional, unconditional = (torch.cat((s, self._embed(ids[-1:]))) for s in (conditional, unconditional))
        return ids

    def say(self, sequence, params, max_tokens, *, penalty=1.0):
        """Text ids up to the end token."""
        allowed = [i for i in self.segments["text"] if i != self.controls["start_of_image"]]
        ids = []
        while len(ids) < max_tokens:
            logits = self._logits(sequence)
            for seen in set(ids):
                logits[seen] *= 1 / penalty if logits[seen] > 0 else penalty
            masked = np.full_like(logits, -np.inf)
            masked[allowed] = logits[allowed]
            token = int(sample(masked[None], params.at_step(len(ids)))[0])
            if token == self.controls["end"]:
                break
            ids.append(token)
            sequence = torch.cat((sequence, self._embed(ids[-1:])))
        return ids

    def codes(self, ids):
        """What was sampled of a picture's ids, from 0 within the level."""
        level = self.segments["level0"]
        return [i - level.start for i in ids if i in level]

    def _allowed(self, program):
        for operation in program:
            if "force" in operation:
                for name in operation["force"]:
                    yield [self.controls[name]]
            elif "sample" in operation:
                for _ in range(operation["count"]):
                    yield list(self.segments[operation["sample"]])
            else:
                for _ in range(operation["repeat"]):
                    yield from self._allowed(operation["body"])

    def _template(self, template, text, pictures):
        parts = []
        for part in template:
            if "control" in part:
                parts.append(self._embed([self.controls[part["control"]]]))
            elif part["slot"] == "text":
                parts.append(self._embed(self._ids(text)))
            else:
                parts += [self._embed(p) if isinstance(p, list) else self._read(p) for p in pictures]
        return parts

    def _read(self, picture):
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1.0
        with torch.no_grad():
            embeds = self.model.adapter(self.model.vision_encoder(pixels))[0]
        size = self.model.config.grid_size
        rows = [torch.cat((row, self._embed([self.controls["end_of_line"]]))) for row in embeds.split(size)]
        start, end = (self._embed([self.controls[name]]) for name in ("start_of_image", "end_of_image"))
        return torch.cat((start, *rows, end))

    def _ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def _embed(self, ids):
        with torch.no_grad():
            return self.model.language_model.embed(torch.tensor(ids, dtype=torch.int64))

    def _logits(self, sequence):
        language_model = self.model.language_model
        with torch.no_grad():
            hidden = language_model(sequence[None])[0, -1]
            return language_model.logits(hidden, 0, self.data["vocabulary"]["size"]).numpy()
