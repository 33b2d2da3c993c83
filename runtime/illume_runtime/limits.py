"""Every limit that input is held to; `illume info` prints them."""

from __future__ import annotations

MAX_PIXELS = 64 * 1024 * 1024  # of an input picture, read from its header before anything is decoded
MAX_IMAGE_BYTES = 256 * 1024 * 1024  # of an input picture's file
MAX_PROMPT_CHARS = 32_768  # of one text; the context is checked in tokens, after encoding
MAX_DRAW_BATCH = 64  # pictures drawn as one batch
MAX_REDRAWS = 16  # rounds of candidates, where a score is asked for
MAX_KEPT_PROMPTS = 16  # whose keys and values are kept between requests
MAX_STEPS = 100  # of diffusion
MAX_PICTURE_TOKENS = 65_536  # that one image program may come to
MAX_BUNDLE_JSON_BYTES = 4 * 1024 * 1024
MAX_GENERATION_JSON_BYTES = 1024 * 1024
MAX_TOKENIZER_BYTES = 64 * 1024 * 1024
MAX_GRAPH_BYTES = 2 * 1024 * 1024 * 1024  # of a protobuf message: its own format's limit
LARGE_BYTES = 64 * 1024 * 1024  # of weights: a stage from there on gives the memory of its activations back
