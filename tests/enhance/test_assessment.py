"""The schema of assessments: read and written strictly, and versions."""

import json
import re

import pytest

from illume_runtime.enhance.assessment import (
    AnsweredCheck,
    assessment,
    assessment_from_json,
    assessments_from_file,
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
    [
        AnsweredCheck("count", "how many stars are there?", "two", "one", 0.0, (3,)),
        AnsweredCheck("color", "is there a red star?", "yes", None, None),
    ],
)
CHECK = json_from_value(ONE)["checks"][0]


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "a.jsonl"
    assert write_assessments(path, [ONE, ONE]) == 2
    assert list(assessments_from_file(path)) == [ONE, ONE]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 1}, "line 2: schema_version 1 is unknown, expected 2; update illume"),
        ({"format": "x"}, "line 2: format is not 'illume-assessment'; this is no assessment"),
        ({"object": {"score": 2.0, "analysis": "a"}}, "line 2: score: got 2.0, expected a number from 0 to 1"),
        ({"object": {"score": "1", "analysis": "a"}}, 'line 2: object.score: got "1", expected a number or null'),
        ({"object": {"score": 1.0, "analysis": " "}}, "line 2: analysis: got ' ', expected one sentence"),
        ({"count": {"score": 1.0}}, "line 2: count.analysis: missing key"),
        ({"size": {}}, "line 2: size: unknown key; the keys here are format,"),
        ({"checks": [CHECK | {"score": 2.0}]}, "line 2: score: got 2.0, expected a number from 0 to 1"),
        ({"checks": [CHECK | {"score": None}]}, "line 2: answer and score: got one of them, expected both or null"),
        ({"checks": [CHECK | {"dimension": "size"}]}, "line 2: dimension: got 'size', expected one of object, count"),
        ({"checks": [CHECK | {"question": "red"}]}, "line 2: question: got 'red', expected a question mark at its end"),
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
