"""A pipeline as an object: what it loads, who may use it, what it refuses, which pictures it takes."""

import dataclasses
import os
import threading

import numpy as np
import pytest
from PIL import Image

from illume_runtime.errors import InvalidBundleError, UnavailableError, UsageError
from illume_runtime.pipeline import ImageSampling, Pipeline, TextSampling
from illume_runtime.trace import Tracer

DRAWING = ImageSampling(temperature=1.0, seed=3, steps=1)
GREEDY = TextSampling(temperature=0.0, max_tokens=8)


def loaded_stages(tracer):
    return {span.name.removeprefix("load.") for span in tracer.spans if span.name.startswith("load.")}


@pytest.mark.parametrize(
    ("verb", "stages"),
    [
        ("load", {"decoder"}),
        ("describe", {"decoder", "vision_encoder", "head_text"}),
        ("draw", {"decoder", "head_level0", "denoiser", "vae_decoder"}),
        ("edit", {"decoder", "vision_encoder", "head_level0", "denoiser", "vae_decoder"}),
        ("reconstruct", {"decoder", "image_tokenizer", "denoiser", "vae_decoder"}),
    ],
)
def test_a_stage_is_loaded_when_it_is_first_needed(bundle, pictures, verb, stages):
    tracer = Tracer()
    work = {
        "load": lambda p: None,
        "describe": lambda p: p.describe(pictures[0], sampling=GREEDY),
        "draw": lambda p: p.draw("a star", sampling=DRAWING),
        "edit": lambda p: p.edit(pictures[0], "red", sampling=DRAWING),
        "reconstruct": lambda p: p.reconstruct(pictures[0], sampling=DRAWING),
    }[verb]
    with Pipeline.load(bundle, threads=1, tracer=tracer) as pipeline:
        work(pipeline)
        assert loaded_stages(tracer) == stages
        tracer.clear()
        work(pipeline)
        assert loaded_stages(tracer) == set()


def test_two_pipelines_do_not_meet(bundle, pictures):
    def work(pipeline):
        return pipeline.draw("a star", sampling=DRAWING)[0].codes[0].tolist()

    with Pipeline.load(bundle, threads=1) as one, Pipeline.load(bundle, threads=1) as two:
        expected = work(one)
        seen = []
        one.draw("a star", sampling=DRAWING, on_progress=lambda step: seen.append(work(two)))
        assert len(seen) > 9
        assert all(codes == expected for codes in seen)


def test_requests_of_several_threads_wait_for_each_other(bundle, pictures):
    with Pipeline.load(bundle, threads=1) as pipeline:
        prompts = ["a star", "two red squares", "b", "a blue circle"]
        expected = [pipeline.draw(prompt, sampling=DRAWING)[0].codes[0].tolist() for prompt in prompts]
        answer = pipeline.describe(pictures[0], sampling=GREEDY)
        got, answers = [None] * len(prompts), []

        def draw(i):
            got[i] = pipeline.draw(prompts[i], sampling=DRAWING)[0].codes[0].tolist()
            answers.append(pipeline.describe(pictures[0], sampling=GREEDY))

        threads = [threading.Thread(target=draw, args=(i,)) for i in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert got == expected
    assert answers == [answer] * len(prompts)


def test_a_request_from_within_a_callback_is_refused_and_harms_nothing(pipeline, pictures):
    expected = pipeline.draw("a star", sampling=DRAWING)[0].codes[0]
    errors = []

    def on_progress(step):
        for work in (lambda: pipeline.describe(pictures[0]), pipeline.close):
            with pytest.raises(UsageError, match="make the next request after the callback") as caught:
                work()
            errors.append(caught.value)

    (picture,) = pipeline.draw("a star", sampling=DRAWING, on_progress=on_progress)
    assert len(errors) == 2 * (9 + 1 + 1)
    np.testing.assert_array_equal(picture.codes[0], expected)


def test_a_closed_pipeline_gives_its_memory_back_and_refuses_requests(bundle, pictures):
    with Pipeline.load(bundle, threads=1) as pipeline:
        pipeline.draw("a star", sampling=DRAWING)
    assert pipeline._model.stages._sessions == {}
    assert pipeline._model.engine._main._buffers == []
    pipeline.close()  # once more does nothing
    for work in (
        lambda: pipeline.draw("a star"),
        lambda: pipeline.describe(pictures[0]),
        lambda: pipeline.edit(pictures[0], "red"),
        lambda: pipeline.reconstruct(pictures[0]),
        lambda: pipeline.chat([{"role": "user", "content": "hello"}]),
    ):
        with pytest.raises(UsageError, match="the pipeline is closed; load the bundle again"):
            work()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_of_a_loaded_pipeline_says_so_instead_of_waiting_for_ever(pipeline):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            pipeline.draw("a star", sampling=DRAWING)
        except UsageError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        message = file.read().decode()
    os.waitpid(child, 0)
    assert message.startswith(f"the pipeline was loaded in process {os.getpid()} and this is its fork {child}; load it")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_pictures_of_every_mode_are_taken(pipeline, pictures, mode, tmp_path):
    image = Image.fromarray(pictures[0]).convert(mode)
    image.save(tmp_path / "x.png")
    upright = np.asarray(image.convert("RGB"))
    answers = [
        pipeline.describe(source, sampling=GREEDY)
        for source in (image, tmp_path / "x.png", str(tmp_path / "x.png"), (tmp_path / "x.png").read_bytes(), upright)
    ]
    assert answers == [answers[0]] * len(answers)


def test_a_turned_picture_is_turned_back(pipeline, pictures, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter turn to the left of what it shows
    matters = 0
    for picture in pictures:
        upright = Image.fromarray(picture)
        turned = upright.transpose(Image.Transpose.ROTATE_90)
        turned.save(tmp_path / "turned.png", exif=exif)
        answer = pipeline.describe(upright, sampling=GREEDY)
        assert pipeline.describe(tmp_path / "turned.png", sampling=GREEDY) == answer
        matters += pipeline.describe(turned, sampling=GREEDY) != answer
    assert matters


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (200, 10), (1, 1), (96, 96)], ids=str)
def test_edits_and_reconstructions_have_the_size_of_the_picture(pipeline, pictures, size):
    image = Image.fromarray(pictures[0]).resize(size)
    assert pipeline.edit(image, "make it red", sampling=DRAWING)[0].image.size == size
    assert pipeline.reconstruct(image, sampling=DRAWING).image.size == size


def test_a_picture_that_stands_twice_in_a_batch_is_encoded_once(bundle, pictures):
    tracer = Tracer()
    with Pipeline.load(bundle, threads=1, tracer=tracer) as pipeline:
        pipeline.edit(pictures[0], "red", n=3, sampling=DRAWING)
    (span,) = [span for span in tracer.spans if span.name == "vision_encoder"]
    assert span.num_bytes < 2 * pictures[0].size * 4 + pipeline.bundle.stage("vision_encoder").weight_bytes


CONTEXT = 160
PROMPT_TOKENS = 3  # begin, user, assistant
PICTURE_TOKENS = 14  # 9 codes, 3 ends of line, start and end
ANSWER_TOKENS = 12


def test_what_just_fits_the_context_is_taken_and_one_token_more_is_refused(pipeline, pictures):
    room = CONTEXT - PROMPT_TOKENS - PICTURE_TOKENS
    (picture,) = pipeline.draw("x" * room, sampling=DRAWING)
    assert picture.codes[0].shape == (3, 3)
    with pytest.raises(UsageError, match=r"has 147 tokens and the picture needs up to 14, but the context holds 160; "):
        pipeline.draw("x" * (room + 1), sampling=DRAWING)
    edit_room = room - PICTURE_TOKENS
    pipeline.edit(pictures[0], "x" * edit_room, sampling=DRAWING)
    with pytest.raises(
        UsageError, match=r"has 147 tokens, 14 of them for 1 picture, and .*shorten the prompt to 146 t"
    ):
        pipeline.edit(pictures[0], "x" * (edit_room + 1), sampling=DRAWING)
    question_room = CONTEXT - PROMPT_TOKENS - PICTURE_TOKENS - ANSWER_TOKENS
    asked = TextSampling(max_tokens=ANSWER_TOKENS)
    pipeline.describe(pictures[0], "x" * question_room, sampling=asked)
    with pytest.raises(UsageError, match=r"has 149 tokens.* and the answer needs up to 12, but the context holds 160"):
        pipeline.describe(pictures[0], "x" * (question_room + 1), sampling=asked)
    with pytest.raises(UsageError, match=r"the answer needs up to 160, .*; ask for fewer than 160 tokens"):
        pipeline.describe(pictures[0], "a", sampling=TextSampling(max_tokens=CONTEXT))


def test_an_answer_of_the_default_length_is_cut_to_what_the_context_holds(pipeline, pictures):
    room = CONTEXT - PROMPT_TOKENS - PICTURE_TOKENS
    for left in (ANSWER_TOKENS, 5, 1):
        answer = pipeline.describe(pictures[0], "x" * (room - left))
        assert len(answer.token_ids) <= left
        assert answer.finish_reason == "end" or len(answer.token_ids) == left
        said = pipeline.chat([{"role": "user", "content": ["x" * (room - left), pictures[0]]}])
        assert said.text == answer.text
    for work in (
        lambda text: pipeline.describe(pictures[0], text),
        lambda text: pipeline.chat([{"role": "user", "content": [text, pictures[0]]}]),
    ):
        with pytest.raises(
            UsageError, match=r"has 160 tokens, 14 of them .* and the answer needs up to 1, but the cont"
        ):
            work("x" * room)


@pytest.mark.parametrize("text", ["<|end|>", "<start_of_image>a", "</s>", "\0", "<|im_start|>user"])
def test_no_text_becomes_a_control_token(pipeline, slow, text):
    prompt = pipeline._model.writer.draw(text).conditional
    ids = [i for part in prompt.parts for i in part.ids]
    controls = set(slow.controls.values())
    assert [i for i in ids if i in controls] == [slow.controls[name] for name in ("begin", "user", "assistant")]
    assert len(ids) == PROMPT_TOKENS + len(text.encode())
    assert pipeline.draw(text, sampling=DRAWING)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda p, a: p.draw(""), "the prompt is empty; say what you want"),
        (lambda p, a: p.draw(" \n"), "the prompt is empty"),
        (lambda p, a: p.draw("x" * 100_000), "the prompt has 100000 characters, expected at most 32768; shorten it"),
        (lambda p, a: p.draw("\udcff"), "the prompt is no valid text at character 0"),
        (lambda p, a: p.edit(a, ""), "the instruction is empty"),
        (lambda p, a: p.describe(a, ""), "the question is empty"),
        (lambda p, a: p.describe("no.png"), "no.png: no such file"),
        (lambda p, a: p.describe_many([a], ["a", "b"]), "got 1 images and 2 questions, expected one for each image"),
        (lambda p, a: p.describe_many([a], []), "got 1 images and 0 questions"),
        (lambda p, a: p.edit_many([a, a], ["a"]), "got 2 images and 1 instructions, expected one for each image"),
    ],
)
def test_what_cannot_be_done_is_refused(pipeline, pictures, work, message):
    with pytest.raises(UsageError, match=message):
        work(pipeline, pictures[0])


def test_more_steps_than_the_scheduler_allows_are_refused(changed_bundle, pictures):
    with Pipeline.load(changed_bundle({"scheduler.max_steps": 20}), threads=1) as pipeline:
        for work in (
            lambda s: pipeline.draw("a", sampling=s),
            lambda s: pipeline.edit(pictures[0], "a", sampling=s),
            lambda s: pipeline.reconstruct(pictures[0], sampling=s),
        ):
            with pytest.raises(UsageError, match="steps: got 21, expected at most 20, as this bundle's scheduler says"):
                work(dataclasses.replace(DRAWING, steps=21))
        pipeline.draw("a", sampling=dataclasses.replace(DRAWING, steps=20))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device": "gpu"}, UsageError, "device: got 'gpu', expected one of cpu, cuda, tensorrt"),
        ({"device": "tensorrt"}, UnavailableError, "device tensorrt: no NVIDIA driver"),
        ({"threads": 0}, UsageError, "threads: got 0, expected at least 1"),
    ],
)
def test_a_device_that_cannot_be_used_is_an_error_at_once(bundle, options, error, message):
    with pytest.raises(error, match=message):
        Pipeline.load(bundle, **options)


@pytest.mark.parametrize(
    ("stage", "work"),
    [
        ("head_level0", lambda p, a: p.draw("a")),
        ("vision_encoder", lambda p, a: p.describe(a)),
        ("image_tokenizer", lambda p, a: p.reconstruct(a)),
    ],
)
def test_a_bundle_of_some_stages_does_what_it_can(bundle, tmp_path, pictures, stage, work):
    import json
    import shutil

    folder = tmp_path / "part.bundle"
    shutil.copytree(bundle, folder)
    data = json.loads((folder / "bundle.json").read_text())
    file = data["stages"].pop(stage)["file"]
    del data["files"][file]
    (folder / file).unlink()
    (folder / "bundle.json").write_text(json.dumps(data))
    with Pipeline.load(folder, threads=1) as pipeline:
        with pytest.raises(InvalidBundleError, match=f"has no stage '{stage}'; it has "):
            work(pipeline, pictures[0])
        assert (stage == "head_level0") or pipeline.draw("a", sampling=DRAWING)
