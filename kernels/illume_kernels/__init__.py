"""Sampling and solver kernels: the definition, in numpy, that every other implementation is compared with."""
