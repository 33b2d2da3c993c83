"""What the worker uses of TensorRT's Python API, as a fake that builds nothing: the "engine" is what it was asked for,
as JSON. FAKE_TENSORRT in the environment says what goes wrong: refuse, unused, copy, none, kill, or wait=FILE."""

import enum
import json
import os
import signal
import time
from pathlib import Path

import onnx

__version__ = "11.4.0"
TIMINGS = b"fake timings"


def wrong():
    return os.environ.get("FAKE_TENSORRT", "")


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2


class IProgressMonitor:
    pass


class LayerType(enum.Enum):
    KV_CACHE_UPDATE = 1
    OTHER = 2


class ProfilingVerbosity(enum.Enum):
    DETAILED = 1


class MemoryPoolType(enum.Enum):
    WORKSPACE = "workspace"


class ComputeCapability(enum.Enum):
    SM86 = "8.6"
    SM89 = "8.9"


class Layer:
    def __init__(self, kind):
        self.type = kind


class Network:
    def __init__(self):
        self.graph = None

    @property
    def num_layers(self):
        return len(self.graph.node)

    def get_layer(self, i):
        in_place = self.graph.node[i].op_type == "TensorScatter" and wrong() != "copy"
        return Layer(LayerType.KV_CACHE_UPDATE if in_place else LayerType.OTHER)


class ParserError:
    def node_name(self):
        return "layers.0"

    def node_operator(self):
        return "Attention"

    def desc(self):
        return "no kernel"


class OnnxParser:
    num_errors = 1

    def __init__(self, network, log):
        self._network, self._log = network, log

    def parse_from_file(self, path):
        self._network.graph = onnx.load(path).graph
        if wrong() == "unused":
            self._log.log(ILogger.Severity.WARNING, "Unused Input: lengths")
        return wrong() != "refuse"

    def get_error(self, i):
        return ParserError()


class TimingCache:
    def __init__(self, data):
        self.data = data

    def serialize(self):
        return TIMINGS


class Profile(dict):
    def set_shape(self, name, low, best, high):
        self[name] = [low, best, high]


class Config:
    def __init__(self):
        self.asked = {"profiles": [], "limits": {}, "capabilities": {}, "timings": None}
        self.progress_monitor = None
        self.num_compute_capabilities = 0

    def set_memory_pool_limit(self, pool, num_bytes):
        self.asked["limits"][pool.value] = num_bytes

    def set_compute_capability(self, capability, i):
        self.asked["capabilities"][i] = capability.value

    def create_timing_cache(self, data):
        return None if data == b"corrupt" else TimingCache(data)

    def set_timing_cache(self, cache, ignore_mismatch):
        if not isinstance(cache, TimingCache):
            raise TypeError("set_timing_cache(): incompatible function arguments")
        if cache.data not in (b"", TIMINGS):
            return False
        self.asked["timings"] = cache.data.decode()
        return True

    def get_timing_cache(self):
        return TimingCache(b"")

    def add_optimization_profile(self, profile):
        self.asked["profiles"].append(profile)


class Builder:
    def __init__(self, log):
        self._log = log

    def create_network(self, flags):
        return Network()

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        monitor, kind = config.progress_monitor, wrong()
        monitor.phase_start("all", None, 2)
        monitor.phase_start("part", "all", 2)
        monitor.step_complete("part", 0)
        if kind.startswith("wait="):
            deadline = time.monotonic() + 60
            while not Path(kind.removeprefix("wait=")).exists() and time.monotonic() < deadline:
                time.sleep(0.02)
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "none":
            self._log.log(ILogger.Severity.ERROR, "no implementation for node layers.0")
            return None
        monitor.phase_finish("part")
        monitor.step_complete("all", 0)
        monitor.step_complete("all", 1)
        for _ in config.asked["profiles"]:
            self._log.log(ILogger.Severity.WARNING, "Total Activation Memory: 4096 bytes")
        self._log.log(ILogger.Severity.WARNING, "Total Weights Memory: 512 bytes")
        layer = "Inputs: [ { Name: x, Datatype: Half }], Constants: [ { Name: w, Datatype: Int8 }], Outputs: []"
        self._log.log(ILogger.Severity.WARNING, f"Layers:\nName: _gemm_mha_v2_0, LayerType: kgen, {layer}")
        return json.dumps(config.asked).encode()
