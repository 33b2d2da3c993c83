"""Whole requests of the runtime, token by token those of the reference implementation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from plus_checkpoint import DATA

from illume_export.families.illume_plus import folders_in, plus_from_folders
from illume_export.families.illume_plus.models import IllumePlus
from illume_kernels.oracle import SampleParams, probabilities, repetition_penalty
from illume_kernels.philox import STREAM_NOISE, normal
from illume_runtime import decoder
from illume_runtime.bundle import Bundle
from illume_runtime.cli.main import main
from illume_runtime.consistency import check_consistency
from illume_runtime.decoder import TokenEngine
from illume_runtime.describing import full_text_sampling
from illume_runtime.errors import InvalidBundleError, UsageError
from illume_runtime.manifest import manifest_from_json
from illume_runtime.pipeline import ImageSampling, Picture, Pipeline, Progress, TextSampling
from illume_runtime.prompting import embeds_of_prompt
from illume_runtime.prompts import Prompt
from illume_runtime.sampling import filtered
from illume_runtime.schedule import EmbedRun, TokenRun, num_places
from illume_runtime.solver import solver_table
from illume_runtime.stages import Stages
from illume_runtime.trace import NULL_TRACER, Tracer

QUESTION = "What is in the image? Answer briefly."
PROMPT = "a red circle over a blue square"
INSTRUCTION = "Change the circle to green."
PICTURE_ID = -200
PENALTY = 1.05  # of the checkpoint
GREEDY = ImageSampling(temperature=0.0, guidance=2.0, quality="draft")


@pytest.fixture(scope="module")
def pipeline(published_bundle: Path) -> Pipeline:
    return Pipeline.load(published_bundle, threads=1)


@pytest.fixture(scope="module")
def model(published_folder: Path) -> IllumePlus:
    return plus_from_folders(folders_in(published_folder))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(DATA / "tokens.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def prompts() -> dict[str, dict[str, object]]:
    data: dict[str, dict[str, object]] = json.loads((DATA / "prompts.json").read_text())
    return data


def picture(name: str) -> Image.Image:
    return Image.open(DATA / f"{name}.png").convert("RGB")


def ids_of(prompt: Prompt) -> list[int]:
    return [i for part in prompt.parts for i in (part.ids if isinstance(part, TokenRun) else (PICTURE_ID,))]


def test_prompts_are_byte_exact(pipeline: Pipeline, prompts: dict[str, dict[str, object]]) -> None:
    writer, schedules = pipeline._model.writer, pipeline._model.schedules
    assert ids_of(writer.describe(QUESTION)) == prompts["understanding_square"]["ids"]
    drawing = writer.draw(PROMPT, schedules["256x256"].tag)
    assert ids_of(drawing.conditional) == prompts["t2i_cond"]["ids"]
    assert ids_of(drawing.unconditional) == prompts["t2i_uncond"]["ids"]
    editing = writer.edit(INSTRUCTION, schedules["512x384"].tag)
    assert ids_of(editing.conditional) == prompts["edit_cond"]["ids"]
    assert ids_of(editing.unconditional) == prompts["edit_uncond"]["ids"]


@pytest.mark.parametrize("height_width", ["384x512", "512x384", "384x768", "768x384", "320x960", "960x320", "1024x256"])
def test_prompts_name_the_size(pipeline: Pipeline, prompts: dict[str, dict[str, object]], height_width: str) -> None:
    name = "x".join(reversed(height_width.split("x")))
    drawing = pipeline._model.writer.draw("a cat with a hat.", pipeline._model.schedules[name].tag)
    assert ids_of(drawing.conditional) == prompts[f"t2i_cat_{height_width}"]["ids"]


@pytest.mark.parametrize("case", range(5))
def test_text_is_encoded_as_the_reference_does_except_for_control_tokens(
    pipeline: Pipeline, prompts: dict[str, dict[str, object]], case: int
) -> None:
    data = prompts[f"tokenizer_case_{case}"]
    ids = pipeline._model.tokenizer.encode(str(data["text"]))
    assert (ids == data["ids"]) is (case != 1)  # case 1 spells control tokens, which text never becomes
    assert not set(ids) & set(pipeline.bundle.vocabulary.controls.values())


def test_grids_of_all_resolutions(pipeline: Pipeline) -> None:
    grids = json.loads((DATA / "token_grids.json").read_text())
    assert len(grids) == len(pipeline._model.schedules) == 12
    for name, schedule in pipeline._model.schedules.items():
        expected = grids["x".join(reversed(name.split("x")))]
        assert schedule.grids == ((expected["h1"], expected["w1"]), (expected["h2"], expected["w2"]))
        assert [len(s) for s in ([k for k in schedule.steps if k.level == level] for level in (0, 1))] == expected[
            "token_nums"
        ]
        assert schedule.num_tokens + 4 == expected["max_new_tokens"]


@pytest.mark.parametrize("name", ["square", "landscape", "portrait"])
def test_answers(pipeline: Pipeline, golden: dict[str, np.ndarray], name: str) -> None:
    sampling = TextSampling(temperature=0.0, max_tokens=24)
    answer = pipeline.describe(picture(name), QUESTION, sampling=sampling)
    assert list(answer.token_ids) == golden[f"describe_{name}"].tolist()


def test_pictures_of_different_shapes_are_answered_as_one_batch(
    pipeline: Pipeline, golden: dict[str, np.ndarray]
) -> None:
    names = ("portrait", "square")
    sampling = TextSampling(temperature=0.0, max_tokens=24)
    answers = pipeline.describe_many([picture(name) for name in names], [QUESTION] * 2, sampling=sampling)
    assert [list(a.token_ids) for a in answers] == [golden[f"describe_{name}"].tolist() for name in names]


DRAWINGS = {
    "tokens": (2.0, PENALTY),
    "cfg1_tokens": (1.0, PENALTY),
    "norep_tokens": (2.0, 1.0),
    "cfg1_norep_tokens": (1.0, 1.0),
}


@pytest.mark.parametrize(("name", "guidance", "penalty"), [(n, *v) for n, v in DRAWINGS.items()], ids=DRAWINGS)
def test_drawings(
    pipeline: Pipeline, golden: dict[str, np.ndarray], name: str, guidance: float, penalty: float
) -> None:
    sampling = ImageSampling(temperature=0.0, guidance=guidance, repetition_penalty=penalty, quality="draft")
    (drawn,) = pipeline.draw(PROMPT, size="256x256", sampling=sampling)
    tokens = pipeline._model.schedules["256x256"].tokens_of(drawn.codes).tolist()
    assert tokens == golden[f"draw_{name}"].tolist()[:-1]  # the reference writes the end of the turn too
    assert drawn.image.size == (256, 256)


def test_a_batch_of_two(pipeline: Pipeline, golden: dict[str, np.ndarray]) -> None:
    sampling = ImageSampling(temperature=0.0, guidance=2.0, repetition_penalty=PENALTY, quality="draft")
    drawn = pipeline.draw_many([PROMPT, "two dogs"], sizes=["256x256"] * 2, sampling=sampling)
    schedule = pipeline._model.schedules["256x256"]
    tokens = np.stack([schedule.tokens_of(one.codes) for one in drawn])
    np.testing.assert_array_equal(tokens, golden["draw_batch2"][:, :-1])


@pytest.mark.parametrize(
    ("name", "guidance"), [("edit_tokens", 2.0), pytest.param("edit_cfg1_tokens", 1.0, marks=pytest.mark.slow)]
)
def test_edits(pipeline: Pipeline, golden: dict[str, np.ndarray], name: str, guidance: float) -> None:
    sampling = ImageSampling(temperature=0.0, guidance=guidance, repetition_penalty=PENALTY, quality="draft")
    (edited,) = pipeline.edit(picture("landscape"), INSTRUCTION, sampling=sampling)
    tokens = pipeline._model.schedules["512x384"].tokens_of(edited.codes)
    np.testing.assert_array_equal(tokens, golden[name][: len(tokens)])
    assert edited.image.size == (300, 220)  # padding is taken off again


def params(setting: str, level: int) -> SampleParams:
    """The second setting has values of its own for each level."""
    if setting == "s1":
        return SampleParams.broadcast(1, temperature=0.7, top_k=20, top_p=0.8)
    values = {"temperature": 0.9, "top_k": 24, "top_p": 0.9}, {"temperature": 1.3, "top_k": 50, "top_p": 0.85}
    return SampleParams.broadcast(1, **values[level])


@pytest.mark.parametrize("setting", ["s1", "s2"])
def test_distributions_are_filtered_as_the_reference_does(
    pipeline: Pipeline, golden: dict[str, np.ndarray], setting: str
) -> None:
    tokens, compared = golden["draw_tokens"].astype(np.int64), 0
    for number, step in enumerate(golden["steps"].tolist()):
        for level in (0, 1):
            segment = pipeline.bundle.vocabulary.segment(f"level{level}")
            if not segment.start <= tokens[step] < segment.end:
                continue
            ids = slice(segment.start, segment.end)
            seen = tokens[:step] - segment.start
            cond = repetition_penalty(golden["cond_logits"][number, ids], seen, PENALTY)
            uncond = golden["uncond_logits"][number, ids]
            got = probabilities((uncond + np.float32(2) * (cond - uncond))[None], params(setting, level))[0]
            scores = golden[f"{setting}_processed"][number, ids].astype(np.float64)
            expected = np.exp(scores - scores.max())
            np.testing.assert_allclose(got, expected / expected.sum(), atol=1e-5)
            compared += 1
    assert compared == 4  # the other steps are forced


@pytest.mark.parametrize("setting", ["s1", "s2"])
def test_double_sampling_filters_as_the_reference_does_behind_its_own_filters(
    pipeline: Pipeline, golden: dict[str, np.ndarray], setting: str
) -> None:
    again = {"temperature": 0.7, "top_k": 20, "top_p": 0.8} if setting == "s1" else {"top_k": 2048, "top_p": 0.95}
    tokens, fewer = golden["draw_tokens"].astype(np.int64), 0
    for number, step in enumerate(golden["steps"].tolist()):
        for level in (0, 1):
            segment = pipeline.bundle.vocabulary.segment(f"level{level}")
            if not segment.start <= tokens[step] < segment.end:
                continue
            ids = slice(segment.start, segment.end)
            cond = repetition_penalty(golden["cond_logits"][number, ids], tokens[:step] - segment.start, PENALTY)
            uncond = golden["uncond_logits"][number, ids]
            logits = (uncond + np.float32(2) * (cond - uncond))[None]
            got = probabilities(filtered(logits, params(setting, level)), SampleParams.broadcast(1, **again))[0]
            scores = golden[f"{setting}_final"][number, ids].astype(np.float64)
            expected = np.exp(scores - scores.max())
            np.testing.assert_allclose(got, expected / expected.sum(), atol=1e-5)
            fewer += (got > 0).sum() < (probabilities(logits, params(setting, level)) > 0).sum()
    assert bool(fewer) is (setting == "s1")  # of the second setting the first time left nothing to be filtered


def test_double_sampling_holds_the_second_level_to_the_first_one_s_filters(pipeline: Pipeline) -> None:
    options = {"temperature": 1.0, "top_k": 1, "top_k_level1": 50, "guidance": 1.0, "quality": "draft", "seed": 3}
    once, twice = (
        pipeline.draw("a", size="256x256", sampling=ImageSampling(**options, double_sampling=double))[0].codes
        for double in (False, True)
    )
    np.testing.assert_array_equal(once[0], twice[0])
    greedy = ImageSampling(**{**options, "temperature": 0.0})
    (likeliest,) = pipeline.draw("a", size="256x256", sampling=greedy)
    np.testing.assert_array_equal(twice[1], likeliest.codes[1])  # one token is left of each draw
    assert (once[1] != twice[1]).any()


def test_the_second_level_has_sampling_of_its_own() -> None:
    sampling = ImageSampling(temperature=0.9, top_k=24, top_p=0.9, temperature_level1=1.3, top_k_level1=50)
    assert (sampling.of_level(0).temperature, sampling.of_level(0).top_k) == (0.9, 24)
    assert (sampling.of_level(1).temperature, sampling.of_level(1).top_k, sampling.of_level(1).top_p) == (1.3, 50, 0.9)


def test_a_picture_becomes_its_codes_and_a_draft(pipeline: Pipeline, model: IllumePlus) -> None:
    image = picture("portrait")
    result = pipeline.reconstruct(image, sampling=ImageSampling(quality="draft"))
    assert [level.shape for level in result.codes] == [(26, 13), (48, 24)]
    assert result.image.size == image.size
    with torch.no_grad():
        code_map = model.tokenizer.code_map(*(torch.from_numpy(level) for level in result.codes))
        pixels = model.tokenizer.decode(code_map)[0].clamp(-1, 1).numpy()
    whole = Image.fromarray(np.rint((pixels.transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8))
    expected = whole.crop((0, 51, 384, 51 + 665)).resize(image.size, Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(expected).astype(int) - np.asarray(result.image)).max() <= 2  # of 255, by the filter


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_standard_pictures_are_those_of_the_plain_unet(pipeline: Pipeline, model: IllumePlus, guidance: float) -> None:
    sampling = ImageSampling(temperature=0.0, guidance=1.0, steps=3, diffusion_guidance=guidance, seed=5)
    (drawn,) = pipeline.draw("two dogs", size="256x256", sampling=sampling)
    assert drawn.image.size == (512, 512)
    assert model.unet is not None
    assert model.vae is not None
    table = solver_table(pipeline.bundle.scheduler, 3)
    x = table.initial * torch.from_numpy(normal(5, 0, STREAM_NOISE, (4, 64, 64)))[None]
    with torch.no_grad():
        code_map = model.tokenizer.code_map(*(torch.from_numpy(level) for level in drawn.codes))
        code_map = code_map.repeat_interleave(4, -1).repeat_interleave(4, -2)
        both, size = torch.cat((code_map, 0 * code_map)), torch.full((2,), 11)
        for step in table.steps:
            e = model.unet((step.scale * x).repeat(2, 1, 1, 1), both, torch.full((2,), step.time), size)
            x = x + step.b * (e[1:] + guidance * (e[:1] - e[1:]))
        pixels = model.vae(x)[0].clamp(-1, 1).numpy()
    expected = np.rint((pixels.transpose(1, 2, 0) + 1) * 127.5)
    assert np.abs(expected - np.asarray(drawn.image).astype(int)).max() <= 1


def test_sizes_may_differ_within_a_call(pipeline: Pipeline) -> None:
    sizes = ["256x256", "1024x256", "256x256"]
    mixed = pipeline.draw_many(["a", "b", "c"], sizes=sizes, sampling=GREEDY)
    assert [one.image.size for one in mixed] == [(256, 256), (1024, 256), (256, 256)]
    assert [one.request for one in mixed] == [0, 1, 2]
    for text, size, one in zip("abc", sizes, mixed, strict=True):
        (alone,) = pipeline.draw(text, size=size, sampling=GREEDY)
        for got, expected in zip(one.codes, alone.codes, strict=True):
            np.testing.assert_array_equal(got, expected)


def preview_of(model: IllumePlus, level0: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """[Y, X, 3] of the plain modules, with the mean vector of the second level's codes in its place."""
    tokenizer = model.tokenizer
    with torch.no_grad():
        known = tokenizer.code_map(torch.from_numpy(level0), torch.zeros(grid, dtype=torch.int64))
        coarse = model.config.tokenizer.semantic.code_dim
        known[:, coarse:] = tokenizer.pixel_quantizer.codebook().mean(dim=0)[:, None, None]
        pixels = tokenizer.decode(known)[0].clamp(-1, 1).numpy()
    return np.rint((pixels.transpose(1, 2, 0) + 1) * 127.5)


def test_a_preview_comes_from_the_first_level_while_the_second_is_written(
    pipeline: Pipeline, model: IllumePlus
) -> None:
    previews: list[tuple[Picture, int]] = []
    steps: list[Progress] = []
    drawn = pipeline.draw_many(
        ["a", "two dogs"],
        sizes=["256x256", "512x384"],
        sampling=GREEDY,
        on_progress=steps.append,
        on_preview=lambda picture: previews.append((picture, len(steps))),
    )
    assert [(picture.request, after) for picture, after in previews] == [(0, 81 - 1), (1, 192 - 1)]
    assert [step.total for step in steps if step.phase == "tokens"] == [192 + 768] * 960
    for (preview, _), whole in zip(previews, drawn, strict=True):
        (level0,) = preview.codes
        np.testing.assert_array_equal(level0, whole.codes[0])
        expected = preview_of(model, level0, whole.codes[1].shape)
        assert np.abs(expected - np.asarray(preview.image).astype(int)).max() <= 1
        assert (preview.prompt, preview.seed, preview.image.size) == (whole.prompt, whole.seed, whole.image.size)
    assert pipeline.draw("a", size="256x256", sampling=GREEDY)[0].codes[1].tolist() == drawn[0].codes[1].tolist()


def test_a_preview_leaves_the_decoder_in_memory_that_goes_on_writing(
    pipeline: Pipeline, published_bundle: Path
) -> None:
    previews: list[Picture] = []
    expected = pipeline.draw("two dogs", size="256x256", sampling=GREEDY)
    with Pipeline.load(published_bundle, residency="staged") as staged:
        drawn = staged.draw("two dogs", size="256x256", sampling=GREEDY, on_preview=previews.append)
        assert set(staged._model.stages._sessions) == {"vq_decoder"}
    assert len(previews) == 1
    np.testing.assert_array_equal(np.asarray(drawn[0].image), np.asarray(expected[0].image))


def test_a_preview_of_an_edit_has_the_size_of_the_picture(pipeline: Pipeline) -> None:
    previews: list[Picture] = []
    pipeline.edit(picture("landscape"), INSTRUCTION, sampling=GREEDY, on_preview=previews.append)
    assert [one.image.size for one in previews] == [(300, 220)]


def test_the_command_writes_the_preview_beside_the_picture(
    published_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    words = ["--size", "256x256", "--quality", "draft", "--preview", str(tmp_path / "first.png")]
    assert main(["draw", str(published_bundle), "a", *words, "-o", str(tmp_path / "out.png"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (preview,), (whole,) = result["previews"], result["pictures"]
    assert preview["file"] == str(tmp_path / "first.png")
    assert preview["preview"] is True
    assert preview["codes_sha256"] != whole["codes_sha256"]
    with Image.open(tmp_path / "first.png") as first, Image.open(tmp_path / "out.png") as last:
        assert first.size == last.size == (256, 256)


def states_of(engine: TokenEngine, rows: list[np.ndarray], constant: list[bool] | None) -> np.ndarray:
    """The hidden states [S, R, D] behind the rows and behind some tokens more."""
    states = [engine.start(rows, max(map(len, rows)) + 64, constant=constant)]
    states += [engine.step(np.full((len(rows), count), 700), "level0").copy() for count in (1, 2, 4)]
    return np.stack(states)


@pytest.mark.parametrize("task", ["draw", "edit"])
def test_prompts_share_what_they_have_in_common_and_no_bit_changes(
    pipeline: Pipeline, published_bundle: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pipeline._model
    tracer = Tracer()
    shared, plain = (TokenEngine(Stages(model.bundle, "cpu", 1, t)) for t in (tracer, NULL_TRACER))
    schedule = model.schedules["256x256" if task == "draw" else "512x384"]
    seen = model.vision.drawn_again([picture("landscape")]) if task == "edit" else []
    constant = [False, True] if task == "draw" else [False, False]
    counted, own = [], []
    for text in (PROMPT, "two dogs"):
        writer = model.writer.draw if task == "draw" else model.writer.edit
        prompts = writer(text, schedule.tag)
        assert prompts.constant is (task == "draw")
        rows = [embeds_of_prompt(shared, side, seen) for side in (prompts.conditional, prompts.unconditional)]
        same = (rows[0][: len(rows[1])] == rows[1][: len(rows[0])]).all(axis=1)
        own.append((*map(len, rows), int(np.argmin(same))))
        tracer.clear()
        got = states_of(shared, rows, constant)
        counted.append(sum(span.args["tokens"] for span in tracer.spans if span.name == "prefill"))
        with monkeypatch.context() as patch:
            patch.setattr(decoder, "MIN_SHARED", 10**6)
            np.testing.assert_array_equal(got, states_of(plain, rows, None))
    (cond, uncond, common), (cond2, uncond2, common2) = own
    if task == "draw":
        assert counted == [cond + uncond - common, cond2 - common2]
        assert common > 15
    else:
        assert counted == [cond + uncond - common, cond2 + uncond2 - common2]
        assert common > 1000  # the picture


def test_an_illegal_size_shows_the_legal_ones(pipeline: Pipeline) -> None:
    with pytest.raises(UsageError, match=r"size: got '640x384', expected one of 512x512, 512x384, .*256x256"):
        pipeline.draw("a", size="640x384")


STRIPS = [(36_864, 16), (16, 36_848), (4112, 100), (9000, 20), (20_000, 1)]


@pytest.mark.parametrize("size", STRIPS, ids=str)
def test_a_picture_beyond_the_limits_of_shape_is_refused_before_anything_is_run(
    pipeline: Pipeline, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stages, "run", lambda *args, **kwargs: pytest.fail("a stage was run"))
    with pytest.raises(
        UsageError, match=r"pixels, which become \d+x\d+; expected sides of 16 to 4096: it is too narrow"
    ):
        pipeline.describe(Image.new("RGB", size), "?")


@pytest.mark.parametrize("size", [(4096, 144), (4103, 20), (3, 400), (1, 1)], ids=str)
def test_a_picture_at_the_limits_of_shape_is_seen(pipeline: Pipeline, size: tuple[int, int]) -> None:
    vision = pipeline._model.vision
    (seen,) = vision.understood([Image.new("RGB", size)])
    assert vision.num_places(Image.new("RGB", size)) == num_places(seen.block)
    assert len(seen.embeds) == sum(run.count for run in seen.block if isinstance(run, EmbedRun))


def test_two_pictures_too_many_for_the_context_are_refused_before_they_are_encoded(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stages, "run", lambda *args, **kwargs: pytest.fail("a stage was run"))
    photo = Image.new("RGB", (1500, 1500))
    message = r"has 62\d\d tokens, 6228 of them for 2 pictures, and .* the context holds 4096; leave a picture out"
    with pytest.raises(UsageError, match=message):
        pipeline.chat([{"role": "user", "content": ["Which is larger?", photo, photo]}])
    with pytest.raises(UsageError, match=r"3114 of them for 1 picture, and the answer needs up to 1024, .* smaller"):
        pipeline.describe(photo, "?", sampling=TextSampling(max_tokens=1024))


def test_a_large_picture_is_answered_in_what_the_context_holds(pipeline: Pipeline) -> None:
    model, photo = pipeline._model, Image.new("RGB", (1500, 1500))
    prompt = model.writer.describe("?")
    full = full_text_sampling(model, None, [prompt], [[photo]])
    assert full.max_tokens == 4096 - prompt.num_tokens([3114]) < 1024
    assert full_text_sampling(model, None, [prompt], [[picture("square")]]).max_tokens == 1024


def test_a_prompt_beyond_the_context_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(UsageError, match="the picture needs up to 1404, but the context holds 4096"):
        pipeline.draw("word " * 3000, sampling=GREEDY)


def test_a_solver_that_does_not_end_as_the_scheduler_says_is_refused(published_bundle: Path) -> None:
    data = json.loads((published_bundle / "bundle.json").read_text())
    data["scheduler"] |= {"final_sigma": "first"}
    check_consistency(manifest_from_json(data))
    data["scheduler"] |= {"solver": "dpmpp_2m"}
    with pytest.raises(InvalidBundleError, match="final_sigma: got 'first', expected 'zero', where dpmpp_2m ends"):
        check_consistency(manifest_from_json(data))


def test_the_bundle_describes_itself(published_bundle: Path) -> None:
    bundle = Bundle.open(published_bundle, verify=False)
    assert bundle.family == "illume_plus"
    assert list(bundle.stages) == [
        *("vision_encoder", "decoder", "head_text", "head_level0", "head_level1"),
        *("image_tokenizer", "vq_decoder", "conditioner", "denoiser", "vae_decoder"),
    ]
    assert bundle.generation["describe"]["repetition_penalty"] == PENALTY
    assert "repetition_penalty" not in bundle.generation["draw"]
