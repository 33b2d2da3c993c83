"""Tensors kept on disk for the weights that they follow from."""

from __future__ import annotations

import torch

from illume_training.kept import kept_tensors


def test_tensors_are_made_once_for_the_same_weights(tmp_path):
    path, weights, made = tmp_path / "run" / "kept.safetensors", [torch.arange(3.0), torch.ones(2, 2).T], []

    def make():
        made.append(1)
        return {"double": torch.arange(6).view(2, 3).T}

    first, second = (kept_tensors(path, weights, make) for _ in range(2))

    assert len(made) == 1
    assert torch.equal(first["double"], second["double"])
    assert [p.name for p in path.parent.iterdir()] == ["kept.safetensors"]


def test_other_weights_make_them_anew(tmp_path):
    path = tmp_path / "kept.safetensors"
    for weights in ([torch.zeros(4)], [torch.ones(4)], [torch.ones(2, 2)], [torch.ones(2, 2, dtype=torch.int32)]):
        assert torch.equal(kept_tensors(path, weights, lambda w=weights: {"w": w[0]})["w"], weights[0])
