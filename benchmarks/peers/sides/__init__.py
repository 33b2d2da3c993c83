"""One module a side: `export(checkpoint, output, threads)`, and a class `Side` that runs what it wrote.

Every peer is given the cheapest way through its own interface: token ids in, logits of the last one out, no sampler.
"""
