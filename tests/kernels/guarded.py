"""Memory that ends where reading on is an error."""

import ctypes
import mmap

import numpy as np

PAGE = mmap.PAGESIZE
PROT_NONE = 0


def at_the_end(array):
    """A copy whose last byte is the last before a page that cannot be read: a CPU that reads on stops there."""
    num_bytes = (array.nbytes + PAGE - 1) // PAGE * PAGE
    memory = np.frombuffer(mmap.mmap(-1, num_bytes + PAGE), np.uint8)
    guard = ctypes.c_void_p(memory.ctypes.data + num_bytes)
    if ctypes.CDLL(None, use_errno=True).mprotect(guard, ctypes.c_size_t(PAGE), PROT_NONE) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    copy = memory[num_bytes - array.nbytes : num_bytes].view(array.dtype).reshape(array.shape)
    copy[:] = array
    return copy
