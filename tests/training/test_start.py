"""The first weights of the language model say what encoder, probe and tokenizer know."""

from __future__ import annotations

import pytest
import torch

from illume_export.models import Illume, IllumeConfig
from illume_export.models.language_model import Attention, rotate
from illume_training.code_contents import CodeContents
from illume_training.start import REGIONS, SEEN, WORDS, start_language_model
from illume_training.vision import CLASSES, CellProbe
from illume_training.world.palette import SHAPES


@pytest.fixture(scope="module")
def started() -> tuple[Illume, CellProbe, torch.Tensor]:
    """A model, its probe and features whose shapes the probe reads clearly: a third of them none."""
    torch.manual_seed(3)
    model = Illume(IllumeConfig.tiny())
    torch.nn.init.normal_(model.language_model.model.embed_tokens.weight, std=0.05)  # as the recipe does
    probe = CellProbe(model.config.vision_encoder)
    rows = torch.nn.init.orthogonal_(torch.empty(40, model.config.vision_encoder.hidden_size))[: sum(CLASSES.values())]
    probe.linear.weight.data[: len(rows)] = rows
    kinds = torch.randint(0, 9, (32, 64)) * (torch.rand(32, 64) < 0.75)
    colors, sizes = torch.randint(9, 17, (32, 64)), torch.randint(17, 20, (32, 64))
    features = 4.0 * (rows[kinds] + rows[colors] + rows[sizes]) + 0.1 * torch.randn(32, 64, rows.shape[1])
    start_language_model(model, probe, features, range(100, 100 + len(WORDS)), _contents())
    return model, probe, features


def _contents() -> CodeContents:
    """Code 5 stands for a small red square; no other for anything."""
    shape, color, size = torch.zeros(1024, 8), torch.zeros(1024, 8), torch.zeros(1024, 3)
    shape[5, 1] = color[5, 0] = size[5, 0] = 9.0
    return CodeContents(torch.full((1024,), 10.0), shape, color, size)


def test_a_code_resembles_the_words_of_what_it_depicts(started):
    model, _, _ = started
    start, end = model.config.level0_segment
    table = model.language_model.model.embed_tokens.weight
    for word in (100 + 1, 100 + 8, 100 + 16):  # the second shape, the first colour, the first size
        assert int((table[start:end] @ table[word]).argmax()) == 5


def test_codes_that_mean_alike_are_embedded_alike(started):
    model, _, _ = started
    start, end = model.config.level0_segment
    embedded = torch.nn.functional.normalize(model.language_model.model.embed_tokens.weight[start:end], dim=-1)
    vectors = model.image_tokenizer.code_vectors()
    pairs = torch.stack([(embedded @ embedded.T).flatten(), (vectors @ vectors.T).flatten()])
    assert torch.corrcoef(pairs)[0, 1] > 0.7


def test_the_adapter_writes_the_words_of_a_cell(started):
    model, probe, features = started
    with torch.no_grad():
        cells = model.adapter(features) - model.adapter.position
        shapes = probe(features)["shape"].argmax(-1)
        words = cells @ model.language_model.model.embed_tokens.weight[100 : 100 + len(SHAPES)].T
    full = shapes > 0
    assert (words.argmax(-1)[full] == shapes[full] - 1).float().mean() > 0.9
    assert words[full].amax(-1).mean() > 2.0 * words[~full].amax(-1).mean()


def test_the_adapter_writes_cells_as_large_as_words(started):
    model, _, features = started
    with torch.no_grad():
        cells = model.adapter(features) - model.adapter.position
    words = model.language_model.model.embed_tokens.weight
    torch.testing.assert_close(cells.norm(dim=-1).mean(), words.norm(dim=-1).mean(), rtol=0.1, atol=0.0)
    large = model.adapter(3.0 * features) - model.adapter.position
    assert large.norm(dim=-1).mean() < 1.1 * cells.norm(dim=-1).mean()  # however large the features are


def test_a_position_names_its_region(started):
    model, _, _ = started
    first = 100 + len(SEEN)
    regions = model.language_model.model.embed_tokens.weight[first : first + len(REGIONS)]
    scores = (model.adapter.position[0].view(8, 8, -1) @ regions.T).detach()
    for row, column, words in ((1, 6, ("top", "right")), (2, 4, ("top", "center")), (5, 3, ("bottom", "center"))):
        found = REGIONS[int(scores[row, column, :3].argmax())], REGIONS[3 + int(scores[row, column, 3:].argmax())]
        assert found == words


def test_the_first_heads_look_at_the_cell_that_the_next_code_would_copy(started):
    model, _, _ = started
    attention = next(m for m in model.language_model.modules() if isinstance(m, Attention))
    length = 200
    query, key, _ = attention.project(torch.zeros(1, length, model.config.language_model.hidden_size))
    cos, sin = model.language_model.cos[None, :length], model.language_model.sin[None, :length]
    scores = rotate(query, cos, sin)[0, 0, -1] @ rotate(key, cos, sin)[0, 0].T
    # After `<start_of_image>` at position p the next code is that of the cell 74 back: 8 rows of 9, and two controls.
    assert length - 1 - int(scores.argmax()) == 74


def test_words_must_be_complete(started):
    model, probe, features = started
    with pytest.raises(ValueError, match=r"word_ids: 2 tokens, expected one for each of 25 words"):
        start_language_model(model, probe, features, [1, 2], _contents())
