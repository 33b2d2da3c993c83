"""The compiled schedule does what its program says, token by token."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle_folder import CONTROLS, manifest_json, resolution, set_key
from illume_runtime.errors import InvalidBundleError
from illume_runtime.manifest import Grammar, Segment, Vocabulary, manifest_from_json
from illume_runtime.programs import Resolution
from illume_runtime.schedule import (
    EmbedRun,
    TokenRun,
    any_input_block,
    num_places,
    schedule_from_grammar,
    schedule_from_resolution,
)
from illume_runtime.typed_json import value_from_json

SIZES = (7, 30, 5)
VOCABULARY = Vocabulary(
    size=400,
    segments=(
        Segment("text", 0, 258),
        Segment("level1", 264, 294),
        Segment("level0", 300, 307),
        Segment("level2", 320, 325),
    ),
    controls=CONTROLS,
)
FORCED = st.lists(st.sampled_from(["start_of_image", "end_of_line", "pad"]), min_size=1, max_size=3)


def compiled(data, vocabulary=VOCABULARY):
    return schedule_from_resolution(value_from_json(Resolution, data, ""), vocabulary)


def interpret(program):
    """The program's tokens, one by one: ("force", name) or ("sample", segment) or ("embed",). The slow definition."""
    for operation in program:
        if "force" in operation:
            for name in operation["force"]:
                yield ("force", name)
        elif "sample" in operation:
            for _ in range(operation["count"]):
                yield ("sample", operation["sample"])
        elif "embed" in operation:
            for _ in range(operation["embed"]):
                yield ("embed",)
        else:
            for _ in range(operation["repeat"]):
                yield from interpret(operation["body"])


@st.composite
def resolutions(draw):
    """Programs of one to three levels, interleaved in any way, whose samples fill some grid."""
    num_levels = draw(st.integers(1, 3))
    sample = st.builds(
        lambda level, count: {"sample": f"level{level}", "count": count},
        st.integers(0, num_levels - 1),
        st.integers(1, 4),
    )
    leaf = sample | st.builds(lambda names: {"force": names}, FORCED)
    body = st.recursive(
        st.lists(leaf, max_size=4),
        lambda inner: st.lists(
            leaf | st.builds(lambda n, b: {"repeat": n, "body": b}, st.integers(1, 3), inner), max_size=3
        ),
        max_leaves=6,
    )
    every_level = [{"sample": f"level{level}", "count": 1} for level in range(num_levels)]
    output = [*draw(body), *draw(st.permutations(every_level)), *draw(body)]
    counts = [sum(t == ("sample", f"level{level}") for t in interpret(output)) for level in range(num_levels)]
    rows = [draw(st.sampled_from([n for n in range(1, count + 1) if count % n == 0])) for count in counts]
    read = st.builds(lambda n: {"embed": n}, st.integers(1, 5)) | st.builds(lambda names: {"force": names}, FORCED)
    return {
        "name": "any",
        "width": draw(st.integers(1, 1000)),
        "height": 10,
        "grids": [[n, count // n] for n, count in zip(rows, counts, strict=True)],
        "output": output,
        "input": [*draw(st.lists(read, max_size=5)), {"repeat": 2, "body": [{"embed": 1}, *draw(st.lists(read))]}],
    }


@settings(deadline=None, max_examples=150)
@given(data=resolutions())
def test_steps_are_what_the_program_says_token_by_token(data):
    schedule = compiled(data)
    events = list(interpret(data["output"]))
    written = []
    drawn = {}
    for step in schedule.steps:
        written += [("force", identifier) for identifier in step.tokens]
        written.append(("sample", step.segment))
        index = drawn.get(step.segment, 0)
        drawn[step.segment] = index + 1
        columns = data["grids"][step.level][1]
        assert step.segment == f"level{step.level}"
        assert (step.row, step.column) == (index // columns, index % columns)
    written += [("force", identifier) for identifier in schedule.trailing]
    assert written == [(kind, CONTROLS[name] if kind == "force" else name) for kind, name in events]
    assert schedule.num_tokens == len(events)


@settings(deadline=None, max_examples=150)
@given(data=resolutions(), seed=st.integers(0, 1000))
def test_a_picture_is_the_same_as_codes_and_as_tokens(data, seed):
    schedule = compiled(data)
    rng = np.random.default_rng(seed)
    codes = [rng.integers(0, SIZES[level], grid) for level, grid in enumerate(data["grids"])]
    tokens = schedule.tokens_of(codes)
    raster = [iter(level.ravel()) for level in codes]
    for token, event in zip(tokens, interpret(data["output"]), strict=True):
        if event[0] == "force":
            assert token == CONTROLS[event[1]]
        else:
            assert token == next(raster[int(event[1][-1])]) + VOCABULARY.segment(event[1]).start
    for level, back in enumerate(schedule.codes_of(tokens)):
        assert back.dtype == np.int64
        np.testing.assert_array_equal(back, codes[level])
    samples = [codes[step.level][step.row, step.column] for step in schedule.steps]
    for level, back in enumerate(schedule.codes_of_samples(samples)):
        np.testing.assert_array_equal(back, codes[level])


@settings(deadline=None, max_examples=80)
@given(data=resolutions())
def test_the_input_block_is_what_the_program_says(data):
    schedule = compiled(data)
    places = []
    for run in schedule.input_block:
        places += [("embed",)] * run.count if isinstance(run, EmbedRun) else [("force", i) for i in run.ids]
    expected = [("embed",) if e[0] == "embed" else ("force", CONTROLS[e[1]]) for e in interpret(data["input"])]
    assert places == expected
    assert schedule.num_input_tokens == len(expected)
    kinds = [type(run) for run in schedule.input_block]
    assert all(a is not b for a, b in itertools.pairwise(kinds))


def test_the_familys_picture_by_hand():
    schedule = compiled(resolution("24x16", ((2, 3),)))
    start, line, end = (CONTROLS[name] for name in ("start_of_image", "end_of_line", "end_of_image"))
    assert [step.tokens for step in schedule.steps] == [(start,), (), (), (line,), (), ()]
    assert schedule.trailing == (line, end)
    assert schedule.input_block == (
        TokenRun((start,)), EmbedRun(3), TokenRun((line,)), EmbedRun(3), TokenRun((line, end)),
    )  # fmt: skip
    assert schedule.tokens_of([[[0, 1, 2], [3, 4, 5]]]).tolist() == [
        start, 300, 301, 302, line, 303, 304, 305, line, end,
    ]  # fmt: skip


def test_resolutions_are_chosen_by_name():
    manifest = manifest_from_json(manifest_json())
    assert schedule_from_grammar(manifest.grammar, manifest.vocabulary).name == "48x32"
    assert schedule_from_grammar(manifest.grammar, manifest.vocabulary, "16x16").grids == ((1, 1),)
    with pytest.raises(ValueError, match="there is no resolution '9x9'; the model has 48x32, 16x16"):
        schedule_from_grammar(manifest.grammar, manifest.vocabulary, "9x9")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("output.1", {"jump": 3}, "expected an object with one of the keys force, sample, embed, repeat"),
        ("output.1.body.0.sample", "level7", "samples 'level7'; the levels of its grids are level0"),
        ("output.1.body.0.sample", "text", "samples 'text'"),
        ("output.1.body.0.count", 4, "level0 is sampled 8 times, expected 2 x 3, the size of its grid"),
        ("output.1.repeat", 3, "level0 is sampled 9 times, expected 2 x 3"),
        ("output.1.repeat", 0, "an operation has the count 0, expected at least 1"),
        ("output.1.repeat", -1, "an operation has the count -1"),
        ("output.1.body.0.count", 10**9, "comes to more than 65536 tokens"),
        ("output.1", {"repeat": 60000, "body": [{"repeat": 60000, "body": []}]}, "comes to more than 65536 tokens"),
        ("output.0.force", ["start"], "there is no control token 'start'"),
        ("output.0.force", [], "an operation has the count 0"),
        ("output.0", {"embed": 3}, "holds embed, which only an input program may"),
        ("input.0", {"sample": "level0", "count": 1}, "holds sample, which only an output program may"),
        ("input.1", {"force": ["pad"]}, "embeds nothing of the input picture"),
        ("grids", [[3, 3]], "level0 is sampled 6 times, expected 3 x 3"),
        ("grids", [[-2, -3]], "level0 is sampled 6 times"),
        ("grids", [[0, 0]], "level0 is sampled 6 times"),
        ("grids", [[2, 3]] * 2, "level1 is sampled 0 times, expected 2 x 3"),
        ("grids", [[2, 3]] * 4, "there is no segment 'level3'; the segments are text, level1, level0, level2"),
        ("grids", [], "and 0 grids, expected a picture"),
        ("width", 0, "got 0x32 and 1 grids, expected a picture"),
    ],
)
def test_a_program_that_is_no_picture_is_refused(key, value, message):
    data = resolution("48x32", ((2, 3),))
    set_key(data, key, value)
    with pytest.raises((InvalidBundleError, ValueError), match=message):
        compiled(data)


@pytest.mark.parametrize(
    ("method", "value", "message"),
    [
        ("tokens_of", [np.zeros((3, 2))], r"48x32: got codes of shapes \[\(3, 2\)\], expected \[\(2, 3\)\]"),
        ("tokens_of", [], r"got codes of shapes \[\]"),
        ("tokens_of", [[[0, 0, 0], [0, 7, 0]]], "level0 has code 7 at row 1, column 1, expected 0 to 6"),
        ("tokens_of", [[[-1, 0, 0], [0, 0, 0]]], "level0 has code -1 at row 0, column 0"),
        ("codes_of", [257, 300], r"got tokens of shape \(2,\), expected \(10,\)"),
        ("codes_of", [257, 300, 300, 300, 0, 300, 300, 300, 259, 258], "token 4 is 0, expected the forced 259"),
        ("codes_of", [257, 300, 300, 300, 259, 300, 300, 264, 259, 258], "level0 has code -36 at row 1, column 2"),
        ("codes_of_samples", [0] * 5, r"got samples of shape \(5,\), expected \(6,\)"),
        ("codes_of_samples", [0, 0, 0, 0, 0, 9], "level0 has code 9 at row 1, column 2"),
    ],
)
def test_what_is_no_picture_of_the_schedule_is_refused(method, value, message):
    with pytest.raises(ValueError, match=message):
        getattr(compiled(resolution("48x32", ((2, 3),))), method)(value)


LEVELS = [
    {"before": ["start_of_image"], "row_end": ["end_of_line"], "after": ["pad"]},
    {"before": ["user"], "row_end": ["end_of_line", "end_of_line"], "after": ["end_of_image"]},
]


def test_a_picture_of_any_size_is_read_level_by_level():
    grammar = value_from_json(Grammar, {"image": {"resolutions": [resolution()], "any_input": LEVELS}}, "")
    block = any_input_block(grammar, VOCABULARY, [(2, 3), (1, 4)])
    line, pad, user = (CONTROLS[name] for name in ("end_of_line", "pad", "user"))
    assert block == (
        TokenRun((CONTROLS["start_of_image"],)),
        EmbedRun(3),
        TokenRun((line,)),
        EmbedRun(3),
        TokenRun((line, pad, user)),
        EmbedRun(4),
        TokenRun((line, line, CONTROLS["end_of_image"])),
    )
    assert num_places(block) == 2 * 3 + 4 + 8
    with pytest.raises(InvalidBundleError, match="any_input: has 2 levels, a picture has 1"):
        any_input_block(grammar, VOCABULARY, [(2, 3)])


def test_a_tag_is_compiled_to_ids_and_structure_is_what_is_forced():
    schedule = compiled({**resolution(), "tag": ["pad", "user"]})
    assert schedule.tag == (CONTROLS["pad"], CONTROLS["user"])
    assert compiled(resolution()).tag == ()
    assert schedule.structure == {CONTROLS[name] for name in ("start_of_image", "end_of_image", "end_of_line")}
