"""Requests for the small model, and the quantized bundle that is made of it, once per session."""

import json

import pytest
from PIL import Image

from illume_runtime.cli.main import main


@pytest.fixture(scope="session")
def data(tmp_path_factory, pictures):
    """A file of eight requests of every task, with its pictures beside it; read only."""
    folder = tmp_path_factory.mktemp("requests")
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i}.png")
    requests = [
        {"task": "describe", "image": "0.png", "question": "what is it?"},
        {"task": "draw", "prompt": "a star"},
        {"task": "edit", "image": "1.png", "instruction": "red"},
        {"task": "draw", "prompt": "two circles", "seed": 3},
        {"task": "reconstruct", "image": "2.png"},
        {"task": "edit", "image": "3.png", "instruction": "make it blue", "seed": 1},
        {"task": "describe", "image": "3.png", "question": "how many?"},
        {"task": "describe", "image": "1.png", "question": "where?"},
    ]
    path = folder / "requests.jsonl"
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))
    return path


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    """A recipe for the small model whose bars random weights clear."""
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(
        """
method = "minmax"
[stages.decoder]
weights = "int8"
activations = "int8"
keep = ["layers.1.mlp.down_proj"]
[stages."head_*"]
weights = "int8"
[stages.token_embedding]
weights = "int8"
[stages.denoiser]
weights = "int8"
activations = "int8"
weight_only = ["time.*", "modulate"]
[stages.vae_decoder]
weights = "int8"
activations = "int8"
keep = ["first"]
[stages.vision_encoder]
weights = "int8"
activations = "int8"
[bars]
sqnr_db = 5.0
agreement = 0.5
kl = 1.0
psnr_db = 15.0
ssim = 0.3
size = 1.0
"""
    )
    return path


@pytest.fixture(scope="session")
def quantized(bundle, data, recipe, tmp_path_factory):
    """The small model's int8 bundle, made by the command; read only."""
    output = tmp_path_factory.mktemp("quantized") / "small-int8.bundle"
    assert main(["calibrate", str(bundle), "--data", str(data), "-o", str(output), "--recipe", str(recipe)]) == 0
    return output
