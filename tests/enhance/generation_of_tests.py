"""The prompts of the tests' corpus, and the words that draw it."""

import json

PROMPTS = ["a red circle", "two blue stars", "a moon above a cross", "a heart"]


def write_prompts(path, prompts):
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return path


def generation(bundle, prompts, output, *more):
    """The words that draw the corpus of the fixture."""
    words = ["enhance", "generate", bundle, prompts, "-n", 2, "--batch", 3, "-o", output, "--threads", 1, *more]
    return [str(word) for word in words]


def contents(folder):
    """Relative path -> bytes of every file."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
