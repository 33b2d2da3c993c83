"""Drawing: seeds, batches, progress, previews, cancelling."""

import dataclasses

import numpy as np
import pytest
from scripted_engine import ScriptedEngine

from illume_runtime.bundle import Bundle
from illume_runtime.decoder import TokenEngine
from illume_runtime.drawing import PREVIEW_SCALE, draw_codes
from illume_runtime.errors import Cancelled, EngineError, UsageError
from illume_runtime.limits import MAX_DRAW_BATCH
from illume_runtime.pipeline import ImageSampling, Pipeline
from illume_runtime.programs import Embed, Force, Repeat, Resolution, Sample
from illume_runtime.schedule import schedule_from_resolution
from illume_runtime.stages import Stages
from illume_runtime.token_engine import TokenRequest
from illume_runtime.trace import NULL_TRACER, Tracer

STEPS = 9  # 3 x 3 codes
SAMPLING = ImageSampling(temperature=1.5, guidance=2.0, steps=3, seed=21)
QUIET = {"tracer": NULL_TRACER, "code_color": None, "on_progress": None, "cancel": None}


def images_of(pictures):
    return [np.asarray(picture.image) for picture in pictures]


def codes_of(pictures):
    return [picture.codes[0].ravel().tolist() for picture in pictures]


def test_the_same_seed_gives_the_same_picture_bit_for_bit(bundle, pipeline):
    first = pipeline.draw("a blue star", n=2, sampling=SAMPLING)
    pipeline.draw("something else", n=3)
    with Pipeline.load(bundle, threads=1) as other:
        second = other.draw("a blue star", n=2, sampling=SAMPLING)
    assert codes_of(first) == codes_of(second)
    for a, b in zip(images_of(first), images_of(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_seed_and_another_number_give_another_picture(pipeline):
    drawn = pipeline.draw("a blue star", n=3, sampling=SAMPLING)
    drawn += pipeline.draw("a blue star", sampling=dataclasses.replace(SAMPLING, seed=22))
    assert len({tuple(codes) for codes in codes_of(drawn)}) == 4
    assert [(picture.seed, picture.request) for picture in drawn] == [(21, 0), (21, 1), (21, 2), (22, 0)]


def test_pictures_of_a_batch_are_those_that_are_drawn_one_by_one(bundle, pipeline):
    engine = TokenEngine(Stages(Bundle.open(bundle), "cpu", 1, NULL_TRACER))
    prompts = [pipeline._model.writer.draw(text) for text in ("a star", "a star", "two red squares", "b")]
    schedule = pipeline._model.schedule
    requests = [
        TokenRequest(schedule, *(pipeline._model.embeds(side, []) for side in (p.conditional, p.unconditional)), number)
        for number, p in enumerate(prompts)
    ]
    together = draw_codes(engine, requests, SAMPLING, **QUIET)
    alone = [draw_codes(engine, [request], SAMPLING, **QUIET)[0] for request in requests]
    reverse = draw_codes(engine, requests[::-1], SAMPLING, **QUIET)[::-1]
    for one, two, three in zip(together, alone, reverse, strict=True):
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[0], three[0])
    assert codes_of(pipeline.draw("a star", n=2, sampling=SAMPLING)) == [c[0].ravel().tolist() for c in together[:2]]


def test_many_prompts_are_drawn_in_batches_and_numbered_through(pipeline, monkeypatch):
    prompts = [f"number {i}" for i in range(5)]
    whole = pipeline.draw_many(prompts, sampling=SAMPLING)
    monkeypatch.setattr("illume_runtime.requests.MAX_DRAW_BATCH", 2)
    parts = pipeline.draw_many(prompts, sampling=SAMPLING)
    assert [picture.request for picture in parts] == list(range(5))
    assert codes_of(parts) == codes_of(whole)
    assert pipeline.draw_many([]) == []


def sized(pipeline, rows, columns, *ends):
    """A schedule of the size rows x columns whose lines end with these control tokens."""
    line = [Sample("level0", columns), *([Force(ends)] if ends else [])]
    output = (Force(("start_of_image",)), Repeat(rows, tuple(line)), Force(("end_of_image",)))
    read = (Embed(1),)
    resolution = Resolution(f"{columns}x{rows}", 16, 16, ((rows, columns),), output, read)
    return schedule_from_resolution(resolution, pipeline.bundle.vocabulary)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_pictures_of_several_sizes_share_the_steps_and_are_those_drawn_alone(bundle, pipeline, guidance, penalty):
    tracer = Tracer()
    engine = TokenEngine(Stages(Bundle.open(bundle), "cpu", 1, tracer))
    sizes = [(2, 3, "end_of_line"), (4, 4), (1, 5, "end_of_line", "end_of_line", "end_of_line"), (4, 4), (2, 2)]
    requests = []
    for number, size in enumerate(sizes):
        prompt = pipeline._model.writer.draw("a star" + number * "s")
        sides = [pipeline._model.embeds(side, []) for side in (prompt.conditional, prompt.unconditional)]
        requests.append(TokenRequest(sized(pipeline, *size), *sides, number))
    sampling = dataclasses.replace(SAMPLING, guidance=guidance, repetition_penalty=penalty)
    ends = []
    options = {**QUIET, "on_level0": lambda place, codes: ends.append((place, codes.tolist()))}
    together = draw_codes(engine, requests, sampling, **options)
    rows = [span.args["tokens"] for span in tracer.spans if span.name == "decode.level0"]
    assert len(rows) == 4 * 4 - 1  # steps of the largest picture alone
    sides = 1 if guidance == 1.0 else 2
    assert rows[-1] == 2 * sides  # the smaller ones have left
    assert [place for place, _ in ends] == [4, 2, 0, 1, 3]
    for place, codes in ends:
        assert codes == together[place][0].tolist()
    for request, codes in zip(requests, together, strict=True):
        (alone,) = draw_codes(engine, [request], sampling, **QUIET)
        np.testing.assert_array_equal(codes[0], alone[0])


@pytest.mark.parametrize(("guidance", "rows"), [(1.0, 2), (2.0, 4)])
def test_a_step_is_one_run_of_the_decoder_and_one_of_the_head(bundle, guidance, rows):
    tracer = Tracer()
    with Pipeline.load(bundle, threads=1, tracer=tracer) as pipeline:
        for text in ("a heart", "a star"):
            tracer.clear()  # the first drawing of a size also computes its unconditional prompt
            pipeline.draw(text, n=2, sampling=dataclasses.replace(SAMPLING, guidance=guidance))
    spans = [span for span in tracer.spans if span.name.startswith(("prefill", "decode.", "head."))]
    counts = {name: sum(span.name == name for span in spans) for name in {span.name for span in spans}}
    assert counts == {"prefill": 1, "decode.level0": STEPS - 1, "head.level0": STEPS}  # no head but the level's
    tokens = [span.args["tokens"] for span in spans if span.name == "decode.level0"]
    assert tokens == [rows * new for new in (1, 1, 2, 1, 1, 2, 1, 1)]  # an end of line goes with the code before it


def test_progress_counts_every_step_exactly(pipeline):
    events = []
    pipeline.draw("a star", n=9, sampling=SAMPLING, on_progress=events.append)
    steps = [(e.phase, e.done, e.total) for e in events]
    assert steps == [
        *(("tokens", k, STEPS) for k in range(1, STEPS + 1)),
        *(("diffusion", k, 3) for k in range(1, 4)),
        ("pixels", 8, 9),
        ("pixels", 9, 9),
    ]


def test_a_preview_comes_with_every_row_and_shows_the_codes_so_far(bundle, pipeline):
    events = []
    (picture,) = pipeline.draw("a star", sampling=SAMPLING, on_progress=events.append)
    previews = {e.done: e.preview for e in events if e.phase == "tokens" and e.preview is not None}
    assert list(previews) == [3, 6, 9]
    assert all(e.preview is None for e in events if e.phase != "tokens")
    colors = np.asarray(Bundle.open(bundle).table("code_color"))
    cells = np.full((3, 3, 3), 128, np.uint8)
    for row in range(3):
        cells[row] = colors[picture.codes[0][row]]
        shown = np.asarray(previews[3 * row + 3].resize((3, 3), resample=4))  # a box: the mean of each cell
        assert previews[3 * row + 3].size == (3 * PREVIEW_SCALE, 3 * PREVIEW_SCALE)
        corner = np.asarray(previews[3 * row + 3])[0, 0]
        np.testing.assert_array_equal(corner, cells[0, 0])
        assert np.abs(shown.astype(int).mean((0, 1)) - cells.astype(int).mean((0, 1))).max() < 12  # interpolated


def test_a_model_of_one_level_has_no_preview(pipeline, pictures):
    for work in (pipeline.draw, lambda text, **options: pipeline.edit(pictures[0], text, **options)):
        seen, previews = [], []
        message = "preview: the family illume draws in one level of visual tokens only, .*; leave the preview out"
        with pytest.raises(UsageError, match=message):
            work("a star", sampling=SAMPLING, on_preview=previews.append, on_progress=seen.append)
        assert seen == previews == []


@pytest.mark.parametrize("verb", ["draw", "edit", "reconstruct"])
def test_cancelling_stops_within_one_step_and_leaves_the_pipeline_as_new(pipeline, pictures, verb):
    def work(**options):
        if verb == "draw":
            return pipeline.draw("a star", sampling=SAMPLING, **options)[0]
        if verb == "edit":
            return pipeline.edit(pictures[0], "make it red", sampling=SAMPLING, **options)[0]
        return pipeline.reconstruct(pictures[0], sampling=SAMPLING, **options)

    events = []
    expected = work(on_progress=events.append)
    for after in range(len(events)):
        seen = []
        with pytest.raises(Cancelled, match=r"cancelled after \d of \d"):
            work(on_progress=seen.append, cancel=lambda after=after, seen=seen: len(seen) >= after)
        assert [(e.phase, e.done) for e in seen] == [(e.phase, e.done) for e in events[:after]]
    again = work()
    np.testing.assert_array_equal(again.codes[0], expected.codes[0])
    np.testing.assert_array_equal(np.asarray(again.image), np.asarray(expected.image))


@pytest.mark.parametrize("n", [0, -1, MAX_DRAW_BATCH + 1, 1000, True, 1.0, "2", None])
def test_a_count_that_is_none_is_refused(pipeline, pictures, n):
    for work in (lambda: pipeline.draw("a star", n=n), lambda: pipeline.edit(pictures[0], "red", n=n)):
        with pytest.raises(UsageError, match=f"n: got .*, expected a whole number from 1 to {MAX_DRAW_BATCH}"):
            work()


def test_logits_that_are_no_numbers_are_an_engine_error(pipeline):
    engine = ScriptedEngine([[3], [None]], 36)
    request = TokenRequest(pipeline._model.schedule, engine.embed([1, 2]), engine.embed([1]), 0)
    sampling = dataclasses.replace(SAMPLING, guidance=1.0)
    with pytest.raises(EngineError, match="head_level0: no token can be drawn at step 1; the logits are not finite"):
        draw_codes(engine, [request], sampling, **QUIET)
    assert engine.started == [(1, 3 + pipeline._model.schedule.num_tokens)]
    assert engine.steps == [("level0", [[520 + 3]])]
