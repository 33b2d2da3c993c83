"""A `tensorrt` module whose engines are ONNX graphs on ONNX Runtime's CPU, with the rules of the real one."""

import json
import types
from pathlib import Path

from fake_gpu import view
from illume_runtime.engine_record import EngineRecord, write_record
from illume_runtime.files import sha256_of
from illume_runtime.ort import cpu_session

HERE = "9.0 (fake GPU, 4 multiprocessors)"  # as records say it of `FakeDevice`
NAMES = {"float32": "FLOAT", "float16": "HALF", "int64": "INT64"}


class Severity:
    INTERNAL_ERROR, ERROR, WARNING = 0, 1, 2


class ILogger:
    Severity = Severity

    def __init__(self):
        pass


class Engine:
    def __init__(self, content, log, bundle, streams):
        self._log, self._streams = log, streams
        self._data = json.loads(content)
        spec = bundle.stage(self._data["stage"])
        self._session = cpu_session(bundle.stage_path(spec.name), spec, 1)
        self._ports = {port.name: port for port in (*spec.inputs, *spec.outputs)}
        self._inputs = [port.name for port in spec.inputs]
        self._names = list(self._ports)
        self.num_io_tensors = len(self._names)
        self.profiles_taken = []
        self.num_optimization_profiles = len(self._data["profiles"])

    def get_tensor_name(self, i):
        return self._names[i]

    def get_tensor_dtype(self, name):
        return types.SimpleNamespace(name=NAMES[self._ports[name].dtype])

    def get_tensor_shape(self, name):
        sizes = {"S": self._data["slots"]} if "_cache_" in name else {}
        return tuple(dim if isinstance(dim, int) else sizes.get(dim, -1) for dim in self._ports[name].shape)

    def get_tensor_profile_shape(self, name, profile):
        return [tuple(shape) for shape in self._data["profiles"][profile][name]]

    def create_execution_context(self, strategy):
        assert strategy == "user managed"
        return Context(self)


class Context:
    def __init__(self, engine):
        self._engine = engine
        self._shapes, self._addresses, self._memory, self._profile, self._bound = {}, {}, None, None, None

    def set_optimization_profile_async(self, profile, stream):
        self._profile = profile
        self._engine.profiles_taken.append(profile)
        return True

    def set_input_shape(self, name, shape):
        low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
        self._shapes[name] = shape
        return all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return address % 256 == 0

    def infer_shapes(self):
        return [name for name in self._engine._inputs if name not in self._shapes]

    def update_device_memory_size_for_shapes(self):
        return 1000

    def set_device_memory(self, address, size):
        assert size >= 1000
        self._memory = address

    def get_tensor_shape(self, name):
        sizes = {}
        for port in self._engine._inputs:
            sizes |= dict(zip(self._engine._ports[port].shape, self._shapes[port], strict=True))
        return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in self._engine._ports[name].shape)

    def execute_async_v3(self, handle):
        assert self._memory is not None
        if reason := self._engine._data.get("refuses"):
            self._engine._log.log(Severity.ERROR, reason)
            return False
        if self._bound is None:
            arrays = {}

            def host(name):
                key = (self._addresses[name], tuple(self.get_tensor_shape(name)))
                dtype = self._engine._ports[name].dtype
                return arrays.setdefault(key, view(key[0], dtype, *key[1]))

            outputs = [name for name in self._engine._ports if name not in self._engine._inputs]
            self._bound = self._engine._session.bind(
                {name: host(name) for name in self._engine._inputs}, {name: host(name) for name in outputs}
            )
        self._engine._streams[handle].put(self._bound.run, "engine")
        return True


class Runtime:
    def __init__(self, log, bundle, streams):
        self._log, self._bundle, self._streams = log, bundle, streams

    def deserialize_cuda_engine(self, content):
        if content == b"of another version":
            self._log.log(Severity.ERROR, "the version is another one")
            return None
        return Engine(content, self._log, self._bundle, self._streams)


def fake_module(bundle, streams, version="11.0"):
    """The module; `streams` are the fake ones by handle."""
    module = types.ModuleType("tensorrt")

    module.__version__, module.ILogger = version, ILogger
    module.Runtime = lambda log: Runtime(log, bundle, streams)
    module.ExecutionContextAllocationStrategy = types.SimpleNamespace(USER_MANAGED="user managed")
    return module


def write_engines(bundle, *, batch=2, longest=None, target="tensorrt", gpu=HERE, builder="11.0", **more):
    """Engines of all stages, with our records, where `illume build` writes them; the folder.

    The decoder takes prompts of `longest` tokens, by default of as many as its cache has slots.
    """
    folder = bundle.path.with_name(f"{bundle.path.name}-engines") / target
    folder.mkdir(parents=True)
    slots = bundle.model.max_context
    for name, spec in bundle.stages.items():
        lengths = ((1, 8, longest or slots), (1, 1, 4)) if name == "decoder" else ((1, 1, 1),)
        profiles = []
        for tokens in lengths:
            sizes = {"B": (1, 1, 2 * batch), "T": tokens, "S": (slots,) * 3}
            profiles.append(
                {
                    p.name: [[d if isinstance(d, int) else sizes[d][k] for d in p.shape] for k in range(3)]
                    for p in spec.inputs
                }
            )
        path = folder / f"{name}.engine"
        path.write_bytes(json.dumps({"stage": name, "profiles": profiles, "slots": slots} | more).encode())
        record(path, bundle, target=target, gpu=gpu, builder=builder)
    return folder


def shape_of(port, sizes, k):
    return [dim if isinstance(dim, int) else sizes[dim][k] for dim in port.shape]


def record(path: Path, bundle, *, target="tensorrt", gpu=HERE, builder="11.0"):
    digest = bundle.manifest.files[bundle.stage(path.stem).file].sha256
    write_record(path, EngineRecord(path.stem, target, builder, gpu, "key", digest, sha256_of(path), ()))
