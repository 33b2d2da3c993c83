"""Addresses of the host arrays that launches point at: a CPU works on them as they lie, a GPU on copies."""

TAKEN = {}
"""The arrays whose address was taken in this test, by address. They stay alive, so that no other takes their place."""


def address(array):
    """Of an array's first byte, for a launch; 0 for None. ValueError where the array is not contiguous."""
    if array is None:
        return 0
    if not array.flags.c_contiguous:
        raise ValueError(f"address: got strides {array.strides}, expected a contiguous array; copy it first")
    first = array.ctypes.data
    if first not in TAKEN or TAKEN[first].nbytes < array.nbytes:
        TAKEN[first] = array
    return first
