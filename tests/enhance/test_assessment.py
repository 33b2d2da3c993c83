"""The schema of assessments: read and written strictly, versions, and the words in which a model says it."""

import json
import re

import pytest

from illume_runtime.enhance.assessment import (
    assessment,
    assessment_from_json,
    assessments_from_file,
    said_in_text,
    text_from_assessment,
    write_assessments,
)
from illume_runtime.typed_json import json_from_value

ONE = assessment(
    "000001-0",
    "two red stars",
    "checker",
    {"object": (1.0, "star"), "count": (0.0, "one star"), "color": (1.0, "red star")},
    0.0,
    "wrong count",
)


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "a.jsonl"
    assert write_assessments(path, [ONE, ONE]) == 2
    assert list(assessments_from_file(path)) == [ONE, ONE]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "line 2: schema_version 2 is unknown, expected 1; update illume"),
        ({"format": "x"}, "line 2: format is not 'illume-assessment'; this is no assessment"),
        ({"object": {"score": 2.0, "analysis": "a"}}, "line 2: score: got 2.0, expected a number from 0 to 1"),
        ({"object": {"score": "1", "analysis": "a"}}, 'line 2: object.score: got "1", expected a number or null'),
        ({"object": {"score": 1.0, "analysis": " "}}, "line 2: analysis: got ' ', expected one sentence"),
        ({"count": {"score": 1.0}}, "line 2: count.analysis: missing key"),
        ({"size": {}}, "line 2: size: unknown key; the keys here are format,"),
        ({"overall": {"score": 0.9, "verdict": "bad", "analysis": "a"}}, "got 'bad' with the score 0.9, which is"),
    ],
)
def test_what_is_no_assessment_names_its_line_and_key(tmp_path, change, message):
    path = tmp_path / "a.jsonl"
    lines = [json_from_value(ONE), {**json_from_value(ONE), **change}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=re.escape(message)):
        list(assessments_from_file(path))


def test_what_is_cut_off_or_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Unterminated string"):
        assessment_from_json('{"format": "illu')
    with pytest.raises(ValueError, match="no such file; expected what `illume enhance assess` writes"):
        list(assessments_from_file(tmp_path / "none"))


def test_a_failed_write_leaves_no_file(tmp_path):
    def broken():
        yield ONE
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_assessments(tmp_path / "a.jsonl", broken())
    assert list(tmp_path.iterdir()) == []


def test_words_say_what_is_seen_before_each_verdict_and_only_what_has_a_score():
    text = text_from_assessment(ONE)
    assert text == "object star: yes. count one star: no. color red star: yes. picture no: wrong count"
    said = said_in_text(text)
    assert (said.analysis, text[said.place :]) == ("wrong count", "no: wrong count")
    assert {name: (text[place:].split(".")[0], why) for name, (place, why) in said.dimensions.items()} == {
        "object": ("yes", "star"),
        "count": ("no", "one star"),
        "color": ("yes", "red star"),
    }


def test_an_analysis_may_hold_a_verdict_of_its_own():
    """As that of the judge by questions does."""
    one = assessment("1-0", "a star", "questions", {"object": (0.0, "how many stars are there: no")}, 0.0, "0 of 1: no")
    said = said_in_text(text_from_assessment(one))
    assert (said.dimensions["object"][1], said.analysis) == ("how many stars are there: no", "0 of 1: no")


OTHER_WORDS = [
    "",
    "maybe: a",
    "picture yes",
    "size b: yes. picture yes: a",
    "count b: yes. object c: yes. picture yes: a",
    "object c: yes",
    " picture yes: a",
]


@pytest.mark.parametrize("text", OTHER_WORDS)
def test_other_words_are_no_assessment(text):
    assert said_in_text(text) is None
