"""A model on a GPU: stages on device memory, the token loop and the diffusion loop without the host."""
