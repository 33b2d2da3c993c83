"""Runs kernel launches of the tests on a GPU: copies the host arrays that a launch points at there and back."""

import dataclasses
from functools import cache

import numpy as np
import pytest
from addresses import TAKEN

from illume_runtime.device.driver import driver
from illume_runtime.device.images import kernel_image
from illume_runtime.device.opening import IMPLEMENTATIONS, open_device
from illume_runtime.device.packages import package
from illume_runtime.errors import UnavailableError

PACKAGES = {"cuda-core": ("cuda.core", "cuda"), "pycuda": ("pycuda.driver", "pycuda")}
assert PACKAGES.keys() == IMPLEMENTATIONS.keys()
GUARD_BYTES, GUARD = 256, 0xA5
LARGEST_SIZE = 1 << 22  # an argument above is an address
LEAST_THREADS = 512  # of a multiprocessor: the kernels are compiled for blocks of so many
SYSTEM_BYTES = 1024  # of shared memory, for each block


@cache
def gpu_device(implementation):
    """The GPU through that package. Skips the test where driver, GPU or package is missing, and only there."""
    try:
        driver()
        package(*PACKAGES[implementation])
    except UnavailableError as error:
        pytest.skip(str(error))
    return GpuDevice(open_device(implementation), kernel_image)


class GpuDevice:
    def __init__(self, device, image_of):
        self.device, self.gpu = device, device.gpu
        self._stream = device.stream()
        self._module = device.module(image_of(device.compute_capability))

    def run(self, launch, schedule="forward", seed=1):
        """Schedule and seed are the shim's: a GPU has its own. What the kernel writes beside the arrays is an error."""
        reason = self.why_not(launch)
        if reason is not None:
            pytest.skip(f"{self.device.name}: {reason}")
        places, num_bytes = placed(launch)
        staged = np.full(num_bytes, GUARD, np.uint8)
        for host, place in places.items():
            staged[place : place + TAKEN[host].nbytes] = bytes_of(TAKEN[host])
        memory = self.device.allocate(num_bytes)
        self._stream.upload(memory.address, staged)
        arguments = tuple(np.uint64(memory.address + places[int(a)]) if is_address(a) else a for a in launch.arguments)
        self._stream.launch(self._module, dataclasses.replace(launch, arguments=arguments))
        self._stream.download(staged, memory.address)
        self._stream.synchronize()
        for host, place in places.items():
            part = staged[place : place + TAKEN[host].nbytes]
            bytes_of(TAKEN[host])[:] = part
            part[:] = GUARD
        beside = np.flatnonzero(staged != GUARD)
        assert not beside.size, f"{launch.symbol} wrote beside its arrays, at {beside[:8]} of {places}"

    def why_not(self, launch):
        """What this GPU lacks for the launch; None where it can run it."""
        if launch.symbol == "sample_cluster" and self.gpu.compute_capability < (9, 0):
            return "clusters are of SM 9.0 and later, and not of PyCUDA"
        if launch.shared_bytes > self.gpu.shared_bytes:
            return f"{launch.shared_bytes} bytes of shared memory are more than it has"
        x, y, z = launch.grid
        per_processor = min(
            LEAST_THREADS // launch.block, self.gpu.shared_bytes // (launch.shared_bytes + SYSTEM_BYTES)
        )
        if launch.symbol == "sample_group" and x > 1 and x * y * z > self.gpu.num_processors * max(per_processor, 1):
            return f"{x * y * z} CTAs that wait for each other do not fit at once"
        return None


def placed(launch):
    """Where each array lies in one block of memory, as {host address: offset}, as aligned as on the host; its size."""
    places, end = {}, GUARD_BYTES
    for argument in launch.arguments:
        if is_address(argument) and int(argument) not in places:
            host = int(argument)
            places[host] = end + host % 16
            end = (places[host] + TAKEN[host].nbytes + GUARD_BYTES - 1) // GUARD_BYTES * GUARD_BYTES + GUARD_BYTES
    return places, end


def is_address(argument):
    """Of an array. AssertionError for an address of anything else, which a GPU could not read."""
    if not isinstance(argument, np.uint64) or int(argument) == 0:
        return False
    if int(argument) in TAKEN:
        return True
    assert argument < LARGEST_SIZE, f"a launch points at {int(argument):#x}, which `address` did not give in this test"
    return False


def bytes_of(array):
    return array.reshape(-1).view(np.uint8)
