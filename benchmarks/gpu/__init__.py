"""Our kernels and loops on the GPU of this machine, beside what else can be had there: `python -m benchmarks.gpu`."""
