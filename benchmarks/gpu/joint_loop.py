"""Our token loop around PyTorch's layers: what the runtime does on a GPU, where neither TensorRT nor ONNX Runtime is.

The schedule, `gather_embedding`, `head_gemv` over the segment, the sampler and `advance_step` are those of the runtime;
only the decoder's layers are PyTorch's, the same compiled ones as in its own loop. A step is one CUDA graph, of which
there is one for each kind of step; the host waits once, at the end of the picture.

Shapes: R = 2 rows, T tokens of a step (the last one and those forced behind it), D width, n tokens of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.static_decoder import LayerStep, StaticDecoder
from benchmarks.gpu.torch_loops import FILTERS, GUIDANCE, PROMPT, TorchModel
from illume_kernels.launch import Segment
from illume_kernels.params import SampleParams
from illume_kernels.rows import rows_from_params
from illume_kernels.sample_plan import sample_plan
from illume_kernels.step_launch import advance_step, gather_embedding, head_gemv
from illume_runtime.gpu.accelerator import Accelerator

Ids = tuple[int, int]
Replay = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class StepKind:
    """The segment of the last token, the ids forced behind it, and the segment of the next one; ids [start, end)."""

    before: Ids
    forced: tuple[int, ...]
    segment: Ids


def folded(grammar: Sequence[Ids]) -> tuple[tuple[int, ...], Ids, list[StepKind]]:
    """What is forced before the first token, its segment, and the steps that follow; forced tokens take no step."""
    forced: list[int] = []
    first: tuple[tuple[int, ...], Ids] | None = None
    before: Ids = (0, 0)
    kinds: list[StepKind] = []
    for start, end in grammar:
        if end - start == 1:
            forced.append(start)
            continue
        if first is None:
            first = tuple(forced), (start, end)
        else:
            kinds.append(StepKind(before, tuple(forced), (start, end)))
        before, forced = (start, end), []
    assert first is not None
    return *first, kinds


class JointLoop:
    """One picture, guided. `captured` makes a replay of work on our stream; PyTorch works on it too."""

    def __init__(
        self,
        gpu: Accelerator,
        model: TorchModel,
        layer: LayerStep,
        captured: Callable[[Replay], Replay] = lambda work: work,
        filters: dict[str, float] | None = None,
    ) -> None:
        self._gpu, self._model, self._captured = gpu, model, captured
        self._filters = dict(FILTERS) if filters is None else filters
        language_model = model.language_model
        self.decoder = StaticDecoder(language_model, 2, PROMPT + len(model.grammar), layer)
        self._opening, self._first, self.kinds = folded(model.grammar)
        self._table = language_model.model.embed_tokens.weight
        self._head = language_model.head_weight
        self._dtype = str(self._head.dtype).removeprefix("torch.")
        self._token, self._step = self._zeros(1, torch.int32), self._zeros(1, torch.int32)
        self._ring, self._count = self._zeros(1 + len(self.kinds), torch.int32), self._zeros(1, torch.int32)
        self._length = self._zeros(2, torch.int64)
        self._kept: list[Any] = []
        segments = {self._first, *(kind.segment for kind in self.kinds)}
        self._samplers = {segment: self._sampler(segment) for segment in segments}
        self._replays: dict[StepKind, Replay] = {}
        self._start = PROMPT + len(self._opening)

    @torch.inference_mode()
    def codes(self, on_prefilled: Callable[[], None] = lambda: None) -> np.ndarray:
        """Codes [n], each from 0 within its segment."""
        self._count.zero_()
        self._step.zero_()
        self._length.fill_(self._start)
        device = self._length.device
        opening = self._model.language_model.embed(torch.tensor([self._opening], device=device))
        prompts = torch.cat(self._model.prompts())
        embeds = torch.cat((prompts, opening.expand(2, -1, -1)), 1)
        places = torch.arange(self._start, device=device)
        self._samplers[self._first](self.decoder.states(embeds, places))
        on_prefilled()
        for kind in self.kinds:
            self._replay(kind)()
        self._advance(None)
        self._gpu.stream.synchronize()
        return self._ring.cpu().numpy().copy()

    def prepare(self) -> None:
        """Capture every kind of step; what stands in the caches is spoilt."""
        with torch.inference_mode():
            self._length.fill_(self._start)
            for kind in dict.fromkeys(self.kinds):
                self._replay(kind)
                self._length.fill_(self._start)

    def floor_ms(self, bytes_per_s: float) -> float:
        """What reading the weights, the heads' rows and the cache takes in all steps of a picture."""
        moved, position = 0, self._start
        row_bytes = self._head[0].numel() * self._head.element_size()
        for kind in self.kinds:
            position += 1 + len(kind.forced)
            head = (kind.segment[1] - kind.segment[0]) * row_bytes
            moved += self.decoder.bytes_of_layers() + head + position * self.decoder.bytes_of_position()
        return moved / bytes_per_s * 1e3

    def _replay(self, kind: StepKind) -> Replay:
        found = self._replays.get(kind)
        if found is None:
            found = self._replays[kind] = self._captured(self._work(kind))
        return found

    def _work(self, kind: StepKind) -> Replay:
        new, table = 1 + len(kind.forced), self._table
        embeds = self._zeros((2, new, table.shape[1]), torch.float32)
        places = self._zeros((2, new), torch.int64)
        forced = torch.tensor(kind.forced or (0,), dtype=torch.int32, device=table.device)
        self._kept += [embeds, places, forced]
        gather = gather_embedding(
            table.data_ptr(),
            self._token.data_ptr(),
            forced.data_ptr(),
            embeds.data_ptr(),
            num_ids=table.shape[0],
            width=table.shape[1],
            start=kind.before[0],
            batch=1,
            num_appended=len(kind.forced),
            sides=2,
            kind=self._dtype,
        )
        choose = self._samplers[kind.segment]

        def work() -> None:
            self._gpu.launch(gather)
            self._advance(places)
            choose(self.decoder.states(embeds.to(table.dtype), places[0]))

        return work

    def _advance(self, places: Tensor | None) -> None:
        """The last token goes into the ring; the step's places follow the length."""
        target = self._length if places is None else places
        launch = advance_step(
            *(array.data_ptr() for array in (self._token, self._ring, self._count, self._length, target)),
            batch=1,
            num_slots=len(self._ring),
            rows=2,
            num_new=0 if places is None else places.shape[1],
        )
        self._gpu.launch(launch)

    def _sampler(self, segment: Ids) -> Callable[[Tensor], None]:
        """What computes the logits of a segment from states [R, D], and draws the token."""
        start, end = segment
        n, head = end - start, self._head
        logits = self._zeros((1, n), torch.float32)
        plan = sample_plan(self._gpu.device.gpu, 1, n)
        top_k = min(int(self._filters["top_k"]), n)
        params = SampleParams.broadcast(
            1, temperature=self._filters["temperature"], top_k=top_k, top_p=self._filters["top_p"]
        )
        rows = torch.from_numpy(rows_from_params(params).view(np.uint8)).to(head.device)
        workspace, keys = (self._zeros(max(size, 1), torch.uint8) for size in (plan.workspace_bytes, plan.keys_bytes))
        states = self._zeros((2, head.shape[1]), head.dtype)
        self._kept += [logits, rows, workspace, keys, states]
        draw = plan.launch(
            Segment(logits.data_ptr(), "float32", n, 0, n),
            rows.data_ptr(),
            self._step.data_ptr(),
            self._token.data_ptr(),
            workspace=workspace.data_ptr() if plan.workspace_bytes else 0,
            keys=keys.data_ptr() if plan.keys_bytes else 0,
        )

        def product() -> None:
            cond, uncond = (states.float() @ head[start:end].float().T).chunk(2)
            logits.copy_(uncond + GUIDANCE * (cond - uncond))

        def choose(given: Tensor) -> None:
            states.copy_(given)
            if self._dtype == "float32":  # a CPU's; the kernel takes 16-bit states
                product()
            else:
                self._gpu.launch(gemv)
            self._gpu.launch(draw)

        if self._dtype != "float32":
            gemv = head_gemv(
                head.data_ptr(),
                0,
                states.data_ptr(),
                logits.data_ptr(),
                kind=self._dtype,
                group=0,
                hidden_size=head.shape[1],
                dtype=self._dtype,
                num_rows=2,
                vocabulary=head.shape[0],
                start=start,
                num_tokens=n,
                guidance=GUIDANCE,
            )
        return choose

    def _zeros(self, shape: int | tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self._model.language_model.head_weight.device)
