"""The ILLUME family: one level of semantic tokens, a diffusion detokenizer."""
