"""The stages of the token loop and the diffusion in PyTorch, on device memory.

With them both loops run on a GPU where neither ONNX Runtime's CUDA provider nor TensorRT is installed. The other stages
stay in ONNX Runtime on the CPU, as they pass host arrays anyway.
"""

from contextlib import nullcontext

import numpy as np
import torch
from torch.nn import functional as F

from fake_gpu import view
from illume_export.families.illume.loader import illume_from_checkpoint
from illume_export.language_stages import GuidedHead
from illume_export.models.language_model import rotate
from illume_runtime.ort import cpu_session


class CachedLayers:
    """`decoder`: the caches are written in place."""

    def __init__(self, language_model):
        self._model = language_model

    def __call__(self, inputs_embeds, positions, **caches):
        model, x = self._model, inputs_embeds
        cos, sin = model.cos[positions], model.sin[positions]
        for i, layer in enumerate(model.model.layers):
            keys, values = caches[f"key_cache_{i}"], caches[f"value_cache_{i}"]
            q, k, v = layer.self_attn.project(layer.input_layernorm(x))
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            places = positions[:, None, :, None].expand_as(k)
            keys.scatter_(2, places, k)
            values.scatter_(2, places, v)
            seen = torch.arange(keys.shape[2], device=x.device) <= positions[:, None, :, None]
            y = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen, enable_gqa=True)
            x = x + layer.self_attn.merge(y)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return {"hidden": model.model.norm(x)}


class TorchStages:
    """Modules by the name of their stage, of one checkpoint of illume."""

    def __init__(self, checkpoint, bundle, device):
        model = illume_from_checkpoint(checkpoint).to(device).eval()
        self.device, language_model = device, model.language_model
        self.modules = {"decoder": CachedLayers(language_model)}
        for segment in bundle.vocabulary.segments:
            head = GuidedHead(language_model, segment.start, segment.end)
            self.modules[f"head_{segment.name}"] = lambda head=head, **inputs: {"logits": head(**inputs)}
        self.modules["denoiser"] = lambda latents, time, code_map: {"velocity": model.denoiser(latents, time, code_map)}
        self.pool = torch.cuda.MemPool() if device == "cuda" else None  # what graphs work in is nobody else's

    def tensor(self, array):
        """The memory of an array, not copied."""
        if self.device == "cuda":
            return torch.as_tensor(array, device="cuda")
        return torch.from_numpy(view(array.address, array.dtype, *array.shape))


class TorchSession:
    """A stage; `accelerator` has the stream, of a GPU or the fake one."""

    max_rows = slots = None

    def __init__(self, path, spec, accelerator, stages, *, is_capturable):
        self._host = cpu_session(path, spec, 1)
        self.spec, self.moved_bytes = spec, spec.weight_bytes
        self.run, self.bind = self._host.run, self._host.bind
        self._accelerator, self._stages, self._is_capturable = accelerator, stages, is_capturable

    def dtype_of(self, name):
        return np.dtype(next(p.dtype for p in (*self.spec.inputs, *self.spec.outputs) if p.name == name))

    def bind_device(self, inputs, outputs):
        return TorchRun(self.spec.name, self._accelerator, self._stages, inputs, outputs, self._is_capturable)


class TorchRun:
    def __init__(self, name, accelerator, stages, inputs, outputs, is_capturable):
        self.is_capturable, self._name, self._stream, self._stages = is_capturable, name, accelerator.stream, stages
        self._kept = inputs, outputs
        self._inputs = {key: stages.tensor(array) for key, array in inputs.items()}
        addresses = {array.address for array in inputs.values()}
        self._outputs = {key: stages.tensor(a) for key, a in outputs.items() if a.address not in addresses}

    def enqueue(self):
        if self._stages.device != "cuda":
            self._stream.put(self._computed, self._name)
            return
        stream = torch.cuda.ExternalStream(self._stream.handle)
        with torch.cuda.stream(stream), torch.cuda.use_mem_pool(self._stages.pool):
            self._computed()

    def _computed(self):
        with torch.inference_mode(), torch.device(self._stages.device) if self._stages.pool else nullcontext():
            for name, values in self._stages.modules[self._name](**self._inputs).items():
                self._outputs[name].copy_(values)


def torch_sessions(accelerator, checkpoint, bundle, device, *, is_capturable=True):
    """What opens the stages, as `gpu_sessions` gives it."""
    stages = TorchStages(checkpoint, bundle, device)
    return lambda path, spec, *_: TorchSession(path, spec, accelerator, stages, is_capturable=is_capturable)
