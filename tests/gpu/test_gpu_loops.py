"""The token loop and the diffusion loop on a GPU in numpy: the tokens of the CPU, and one wait for each row."""

import gc
import weakref
from itertools import pairwise

import numpy as np
import pytest

from fake_gpu import FakeDevice, fake_gpu
from illume_runtime.errors import Cancelled, EngineError, MemoryLimitError, UsageError
from illume_runtime.gpu import sessions
from illume_runtime.gpu.accelerator import Accelerator
from illume_runtime.pipeline import ImageSampling, Pipeline, TextSampling
from illume_runtime.sampling import with_defaults
from illume_runtime.trace import DEVICE_TRACK, Tracer

ROWS, TOKENS = 3, 9  # of a picture of the small model


@pytest.fixture
def on_gpu(bundle, monkeypatch):
    """A function: the pipeline on a fake device, and the device."""

    def load(device=None, **options):
        device = device or FakeDevice()
        monkeypatch.setattr(sessions, "gpu_sessions", lambda bundle, name: fake_gpu(device, **options))
        return Pipeline.load(bundle, device="cuda"), device

    return load


def codes_of(pictures):
    return [[level.tolist() for level in picture.codes] for picture in pictures]


@pytest.mark.parametrize("capability", [(9, 0), (8, 7)], ids=["cluster", "group"])
@pytest.mark.parametrize("is_capturable", [True, False], ids=["captured", "captures itself"])
@pytest.mark.parametrize(
    "sampling",
    [
        ImageSampling(seed=5, steps=2),
        ImageSampling(seed=6, guidance=1.0, temperature=0.7, top_k=7, steps=1, diffusion_guidance=3.0),
        ImageSampling(seed=7, top_p=0.6, min_p=0.05, steps=3, diffusion_guidance=2.0),
        ImageSampling(seed=8, temperature=0.0, steps=1),
    ],
    ids=["guided", "top-k", "top-p", "greedy"],
)
def test_pictures_are_those_of_the_cpu(pipeline, on_gpu, sampling, is_capturable, capability):
    gpu, _ = on_gpu(FakeDevice(capability), is_capturable=is_capturable)
    got = gpu.draw("a star", n=3, sampling=sampling)
    expected = pipeline.draw("a star", n=3, sampling=sampling)
    assert codes_of(got) == codes_of(expected)
    for one, other in zip(got, expected, strict=True):
        difference = np.abs(np.asarray(one.image, np.int16) - np.asarray(other.image, np.int16))
        assert difference.max() <= 1  # a rounding of the pixels


def test_a_repetition_penalty_acts_on_the_conditional_side(pipeline, on_gpu):
    sampling = ImageSampling(seed=9, repetition_penalty=1.7, steps=1)
    gpu, _ = on_gpu()
    expected = pipeline.draw("a star", n=2, sampling=sampling)
    assert codes_of(gpu.draw("a star", n=2, sampling=sampling)) == codes_of(expected)
    assert codes_of(expected) != codes_of(pipeline.draw("a star", n=2, sampling=ImageSampling(seed=9, steps=1)))


def test_prompts_of_other_lengths_and_edits_share_the_loop(pipeline, on_gpu, pictures):
    gpu, _ = on_gpu()
    prompts = ["a star", "a much longer sentence about nothing", "x"]
    for sampling in (ImageSampling(seed=1, steps=1), ImageSampling(seed=2, steps=1)):
        assert codes_of(gpu.draw_many(prompts, sampling=sampling)) == codes_of(
            pipeline.draw_many(prompts, sampling=sampling)
        )
    from PIL import Image

    image = Image.fromarray(pictures[0])
    sampling = ImageSampling(seed=3, steps=1)
    assert codes_of(gpu.edit(image, "greener", sampling=sampling)) == codes_of(
        pipeline.edit(image, "greener", sampling=sampling)
    )


@pytest.mark.parametrize("prompts", [["x"] * 4, ["x", "a star", "x", "why", "a star"], ["y", "x", "x"]], ids=str)
def test_equal_prompts_are_computed_once(pipeline, on_gpu, prompts):
    gpu, _ = on_gpu()
    sampling = ImageSampling(seed=4, steps=1)
    expected = pipeline.draw_many(prompts, sampling=sampling)
    assert codes_of(gpu.draw_many(prompts, sampling=sampling)) == codes_of(expected)
    prefilled = [rows for rows, _, new in gpu._model.engine.decoding._bound if new >= 8]
    assert prefilled == [len(set(prompts)) + 1]  # and the side without a prompt


def test_answers_are_those_of_the_cpu(pipeline, on_gpu, pictures):
    from PIL import Image

    gpu, _ = on_gpu()
    images = [Image.fromarray(picture) for picture in pictures[:2]]
    for sampling in (
        TextSampling(max_tokens=6),
        TextSampling(max_tokens=6, temperature=1.0, seed=4),
        TextSampling(max_tokens=9, temperature=1.0, seed=5, repetition_penalty=3.0, top_p=0.9),
    ):
        expected = pipeline.describe_many(images, ["what?", "which colour?"], sampling=sampling)
        got = gpu.describe_many(images, ["what?", "which colour?"], sampling=sampling)
        assert [answer.token_ids for answer in got] == [answer.token_ids for answer in expected]


@pytest.mark.parametrize("seed", range(4))
def test_a_chat_is_that_of_the_cpu(pipeline, on_gpu, pictures, seed):
    from PIL import Image

    gpu, _ = on_gpu()
    messages = [{"role": "user", "content": ["what is this?", Image.fromarray(pictures[0])]}]
    said = TextSampling(max_tokens=6, temperature=1.0, seed=seed)
    got, expected = (one.chat(messages, sampling=said) for one in (gpu, pipeline))
    assert (got.text, got.finish_reason) == (expected.text, expected.finish_reason)
    assert (got.picture is None) == (expected.picture is None)


def test_an_answer_replays_the_decoder_and_the_head(on_gpu, pictures):
    from PIL import Image

    gpu, device = on_gpu()
    gpu.describe(Image.fromarray(pictures[0]), "what?", sampling=TextSampling(max_tokens=6))
    assert device.calls["capture decoder"] == device.calls["capture head_text"] == 1
    assert device.calls["decoder"] == 2  # the prefill, and the first step


def test_the_host_waits_once_for_each_word_and_the_device_for_no_word(on_gpu, pictures):
    from PIL import Image

    from illume_runtime.gpu.answering import AHEAD

    gpu, device = on_gpu()
    image, under_way = Image.fromarray(pictures[0]), []

    def answered(**options):
        device.calls.clear()
        gpu.describe(image, "what?", sampling=TextSampling(max_tokens=7), **options)
        return device.calls

    answered(on_text=lambda text: under_way.append(device.calls["sample_gumbel"] + device.calls["replay"]))
    assert under_way[0] == 1 + AHEAD
    for _ in range(2):
        calls = answered()
        assert calls["wait for an event"] == 7
        assert calls["download"] == calls["synchronize"] == 0
    assert calls["graph"] == 0  # of an earlier answer
    assert calls["replay"] == 1 + 7  # the prefill, and the words
    assert calls["allocate"] == 0


def words_of(model, script, **options):
    """Tokens of each step, which may open a picture where the script says so, and the logits."""
    rows = [model.engine.embed(np.arange(3, length)) for length in (9, 14)]
    sampling = with_defaults(TextSampling(max_tokens=len(script), temperature=0.9, top_k=40, seed=3), {}, "describe")
    logits = []
    watch = {"on_logits": lambda given: logits.append(given.copy())} if options.pop("watched", False) else {}
    words = model.engine.words(rows, sampling, **{"banned": [5, 7], "opening": None} | options | watch)
    tokens = [
        words.tokens(k, may_open=may, may_open_later=any(script[k + 1 :])).tolist() for k, may in enumerate(script)
    ]
    words.close()
    return tokens, logits


@pytest.mark.parametrize("script", [[0] * 6, [1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0], [0, 0, 1]], ids=str)
def test_words_may_open_a_picture_where_those_of_the_cpu_may(pipeline, on_gpu, script):
    gpu, _ = on_gpu()
    cpu, device = pipeline._model, gpu._model
    opening = words_of(cpu, script)[0][script.index(1) if any(script) else 0][0]  # what would be chosen there
    expected, got = words_of(cpu, script, opening=opening), words_of(device, script, opening=opening)
    assert got[0] == expected[0]
    if any(script):
        assert expected[0][script.index(1)][0] == opening
    assert words_of(cpu, script, opening=opening, first=4)[0] == words_of(device, script, opening=opening, first=4)[0]


def test_logits_of_answers_are_those_of_the_cpu(pipeline, on_gpu):
    gpu, _ = on_gpu()
    expected, got = (words_of(model, [0] * 4, watched=True) for model in (pipeline._model, gpu._model))
    assert got[0] == expected[0]
    np.testing.assert_allclose(np.stack(got[1]), np.stack(expected[1]), rtol=1e-4, atol=1e-4)


def test_an_engine_of_few_rows_draws_in_parts(pipeline, on_gpu):
    gpu, _ = on_gpu(max_rows=4)
    sampling = ImageSampling(seed=5, steps=1, diffusion_guidance=2.0)
    assert codes_of(gpu.draw("a star", n=5, sampling=sampling)) == codes_of(
        pipeline.draw("a star", n=5, sampling=sampling)
    )


def drawn_calls(gpu, device, sampling):
    """The codes' calls alone: those of the token loop behind its prefill."""
    from illume_runtime.gpu.drawing import TokenLoop

    run, seen = TokenLoop._prepared, {}

    def prepared(loop):
        steps = run(loop)
        loop._accelerator.stream.synchronize()
        device.calls.clear()
        return steps

    read = TokenLoop._read

    def counted(loop, row, *rest):
        read(loop, row, *rest)
        seen.update(device.calls)

    TokenLoop._prepared, TokenLoop._read = prepared, counted
    try:
        gpu.draw("a star", sampling=sampling)
    finally:
        TokenLoop._prepared, TokenLoop._read = run, read
    return seen


def test_the_host_waits_once_for_each_row_and_replays_the_rest(on_gpu):
    gpu, device = on_gpu()
    sampling = ImageSampling(seed=5, steps=1)
    # Kinds of steps: the first, within a row, before the end of a row, behind it, and the last.
    for captured in (3, 2, 0):  # a kind when it comes for the second time, in whichever request
        calls = drawn_calls(gpu, device, sampling)
        assert calls["wait for an event"] == ROWS
        assert "synchronize" not in calls
        assert "download" not in calls
        assert calls.get("graph", 0) == captured
        assert calls["replay"] + calls.get("sample_cluster", 0) == TOKENS
    assert calls["replay"] == TOKENS
    assert "allocate" not in calls


@pytest.mark.parametrize("is_capturable", [True, False])
def test_the_loops_run_over_pytorch_too(pipeline, bundle, checkpoint, pictures, monkeypatch, is_capturable):
    """What a GPU test runs where nothing but PyTorch is installed, over the fake device."""
    from PIL import Image
    from torch_sessions import torch_sessions

    device = FakeDevice()
    accelerator = Accelerator(device, b"kernels")

    def opened(bundle, name):
        return accelerator, torch_sessions(accelerator, checkpoint, bundle, "cpu", is_capturable=is_capturable)

    monkeypatch.setattr(sessions, "gpu_sessions", opened)
    sampling, said = ImageSampling(seed=5, steps=3, diffusion_guidance=2.0), TextSampling(max_tokens=5)
    image = Image.fromarray(pictures[0])
    with Pipeline.load(bundle, device="cuda") as gpu:
        assert codes_of(gpu.draw("a star", n=2, sampling=sampling)) == codes_of(
            pipeline.draw("a star", n=2, sampling=sampling)
        )
        assert gpu.describe(image, "what?", sampling=said) == pipeline.describe(image, "what?", sampling=said)
    assert (device.calls["capture decoder"] > 0) == is_capturable


def test_a_session_that_captures_itself_is_never_captured(on_gpu):
    gpu, device = on_gpu(is_capturable=False)
    gpu.draw("a star", sampling=ImageSampling(seed=5, steps=4))
    assert not [name for name in device.calls if name in ("capture decoder", "capture head_level0", "capture denoiser")]
    assert device.calls["capture sample_cluster"] > 0


def test_the_diffusion_loop_is_captured_once(on_gpu):
    gpu, device = on_gpu()
    gpu.draw("a star", sampling=ImageSampling(seed=5, steps=6))
    assert device.calls["denoiser"] == device.calls["capture denoiser"] == 1
    assert device.calls["capture guidance_step"] == 1


def test_the_host_waits_in_no_diffusion_step_but_for_the_one_before(on_gpu):
    gpu, device = on_gpu()

    def calls_of(steps, **options):
        device.calls.clear()
        gpu.draw("a star", sampling=ImageSampling(seed=5, steps=steps), **options)
        return device.calls["synchronize"], device.calls["wait for an event"]

    calls_of(2)
    assert calls_of(3) == calls_of(7)
    shown = [calls_of(steps, on_progress=lambda progress: None) for steps in (3, 7)]
    assert shown[0][0] == shown[1][0]
    assert shown[1][1] - shown[0][1] == 4


def test_what_the_device_did_is_a_track_of_its_own(on_gpu, pictures):
    from PIL import Image

    gpu, device = on_gpu()
    gpu.draw("a star", sampling=ImageSampling(steps=3))
    tracer = gpu._model.stages.tracer = Tracer()
    waits = device.calls["wait for an event"]
    with tracer.span("draw", "request"):
        gpu.draw("a star", n=2, sampling=ImageSampling(steps=3))
    assert device.calls["wait for an event"] == waits + 1 + ROWS  # once to tell the device's clock
    with tracer.span("describe", "request"):
        gpu.describe(Image.fromarray(pictures[0]), "what?", sampling=TextSampling(max_tokens=6))
    spans = [span for span in tracer.spans if span.thread == DEVICE_TRACK]
    names = [span.name for span in spans]
    assert names[: 1 + ROWS + 3] == ["prefill", *["row.level0"] * ROWS, *["denoiser"] * 3]
    assert set(names[1 + ROWS + 3 :]) == {"prefill", "step.text"}
    assert all(before.end_ns <= after.start_ns for before, after in pairwise(spans))
    assert all(span.duration_ns > 0 and span.num_bytes > 0 and span.flops > 0 for span in spans)
    assert [span.args["tokens"] for span in spans[1 : 1 + ROWS]] == [2 * TOKENS // ROWS] * ROWS
    draw = next(span for span in tracer.spans if span.name == "draw")
    assert draw.start_ns < spans[0].start_ns
    assert spans[ROWS + 3].end_ns < draw.end_ns


def test_progress_comes_once_for_each_row_and_ends_at_the_end(on_gpu):
    gpu, _ = on_gpu()
    seen = []
    gpu.draw("a star", sampling=ImageSampling(steps=3), on_progress=lambda p: seen.append((p.phase, p.done, p.total)))
    assert [s for s in seen if s[0] == "tokens"] == [("tokens", 3, 9), ("tokens", 6, 9), ("tokens", 9, 9)]
    assert [s for s in seen if s[0] == "diffusion"] == [("diffusion", i, 3) for i in (1, 2, 3)]


def test_cancelling_leaves_the_pipeline_as_new(pipeline, on_gpu):
    gpu, _device = on_gpu()
    sampling = ImageSampling(seed=5, steps=1)
    asked = iter([False, False, True])
    with pytest.raises(Cancelled, match="cancelled after 6 of 9 tokens"):
        gpu.draw("a star", sampling=sampling, cancel=lambda: next(asked))
    assert codes_of(gpu.draw("a star", sampling=sampling)) == codes_of(pipeline.draw("a star", sampling=sampling))


def test_logits_that_are_not_finite_are_an_error(on_gpu, monkeypatch):
    gpu, _ = on_gpu()
    embed = gpu._model.engine.decoding.embed
    monkeypatch.setattr(type(gpu._model.engine.decoding), "embed", lambda self, ids: embed(ids) * np.float32(np.nan))
    with pytest.raises(EngineError, match="head_level0: no token can be drawn at step 0; the logits are not finite"):
        gpu.draw("a star")


def test_a_cache_that_does_not_fit_is_refused_before_it_is_made(on_gpu):
    gpu, _ = on_gpu(FakeDevice(memory_bytes=(64 << 20) + 1000))
    with pytest.raises(MemoryLimitError, match=r"MB of the GPU's memory, but .* are left; ask for fewer at once"):
        gpu.draw("a star", n=4)


def test_double_sampling_is_refused(on_gpu):
    gpu, _ = on_gpu()
    with pytest.raises(UsageError, match=r"double_sampling: .* runs on the CPU only; use --device cpu"):
        gpu.draw("a star", sampling=ImageSampling(double_sampling=True))


def test_the_device_is_that_of_the_thread_of_each_request(on_gpu):
    gpu, device = on_gpu()
    for _ in range(2):
        gpu.draw("a star", sampling=ImageSampling(steps=1))
    assert device.calls["current"] == 2


def test_bindings_that_are_given_up_while_it_draws_change_nothing(pipeline, on_gpu, monkeypatch):
    from illume_runtime.gpu import decoding

    monkeypatch.setattr(decoding, "MAX_BINDINGS", 1)
    gpu, _ = on_gpu()
    sampling = ImageSampling(seed=5, steps=1)
    for _ in range(2):
        assert codes_of(gpu.draw("a star", sampling=sampling)) == codes_of(pipeline.draw("a star", sampling=sampling))


def test_embeddings_of_codes_are_uploaded_once_and_one_prefill_stays_bound(on_gpu):
    gpu, _ = on_gpu()
    sampling = ImageSampling(steps=1)
    gpu.draw("a star", sampling=sampling)
    decoding = gpu._model.engine.decoding
    table = decoding.table(gpu.bundle.vocabulary.segment("level0"))
    for prompt in ("a much longer sentence about nothing at all", "one that is longer still, and says less than that"):
        gpu.draw(prompt, sampling=sampling)
    assert decoding.table(gpu.bundle.vocabulary.segment("level0")) is table
    assert len([key for key in decoding._bound if key[2] >= 8]) == 1


def test_memory_is_given_back_on_close_without_the_garbage_collector(on_gpu, pictures):
    from PIL import Image

    gpu, device = on_gpu()
    before = device.left
    gc.collect()
    gc.disable()  # what was given up has to be free before more is asked for
    try:
        gpu.draw("a star", n=2, sampling=ImageSampling(steps=3))
        gpu.describe(Image.fromarray(pictures[0]), "what?", sampling=TextSampling(max_tokens=5))
        assert device.left < before
        gpu.close()
        assert device.left == before
    finally:
        gc.enable()


def test_a_smaller_cache_is_free_before_a_larger_one_is_made(on_gpu):
    gpu, _ = on_gpu()
    gc.collect()
    gc.disable()
    try:
        gpu.draw("a star", n=1, sampling=ImageSampling(steps=1))
        decoding = gpu._model.engine.decoding
        caches = [weakref.ref(array.owner) for array in decoding._buffers]
        gpu.draw("a star", n=4, sampling=ImageSampling(steps=1))
        assert all(one() is None for one in caches)
    finally:
        gc.enable()
