"""The runtime measured beside eager PyTorch on the same checkpoint; `make bench` runs all of it."""
