"""One module a side: `export(checkpoint, output, threads, weights)`, and a class `Side` that runs what it wrote.

`weights` is one of those of the side in `environments.QUANTIZED`; a side that is not there is asked for float32 alone.

Every peer is given the cheapest way through its own interface: token ids in, logits of the last one out, no sampler.
"""
