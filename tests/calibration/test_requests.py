import json

import pytest

from illume_calibration.requests import data_sha256, requests_from_file
from illume_runtime.errors import UsageError

GOOD = [
    {"task": "describe", "image": "a.png", "question": "what is it?"},
    {"task": "draw", "prompt": "a star", "seed": 7},
    {"task": "edit", "image": "sub/b.png", "instruction": "make it red"},
    {"task": "reconstruct", "image": "a.png"},
]


def written(tmp_path, *lines):
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b"".join(line if isinstance(line, bytes) else line.encode() + b"\n" for line in lines))
    return path


def test_requests_of_all_tasks(tmp_path):
    path = written(tmp_path, *map(json.dumps, GOOD[:2]), "", *map(json.dumps, GOOD[2:]))
    found = list(requests_from_file(path))
    assert [(r.task, r.text, r.seed) for r in found] == [
        ("describe", "what is it?", 0),
        ("draw", "a star", 7),
        ("edit", "make it red", 0),
        ("reconstruct", "", 0),
    ]
    assert [r.line for r in found] == [1, 2, 4, 5]
    assert [r.image for r in found] == [tmp_path / "a.png", None, tmp_path / "sub/b.png", tmp_path / "a.png"]


BAD_LINES = {
    "no JSON": ("{", "line 2: no JSON"),
    "no object": ("[1]", "line 2: got '\\[1\\]', expected an object"),
    "no task": ('{"prompt": "x"}', "line 2: task: got None, expected one of describe, draw"),
    "unknown task": ('{"task": "sing"}', "line 2: task: got 'sing'"),
    "unknown key": ('{"task": "draw", "prompt": "x", "n": 3}', "line 2: unknown key 'n'"),
    "missing key": ('{"task": "edit", "image": "a.png"}', "line 2: instruction: got None"),
    "blank text": ('{"task": "draw", "prompt": "  "}', "line 2: prompt: got '  '"),
    "wrong type": ('{"task": "draw", "prompt": 5}', "line 2: prompt: got 5"),
    "negative seed": ('{"task": "draw", "prompt": "x", "seed": -1}', "line 2: seed: got -1"),
    "a key twice": ('{"task": "draw", "prompt": "x", "prompt": "y"}', "line 2: no JSON: the key 'prompt' stands twice"),
    "NaN": ('{"task": "draw", "prompt": "x", "seed": NaN}', "line 2: no JSON: NaN"),
    "no UTF-8": (b'{"task": "draw", "prompt": "\xff"}\n', "line 2: no UTF-8 at byte 28"),
    "too long": (
        '{"task": "draw", "prompt": "' + "x" * 200_000 + '"}',
        r"line 2: has 2000\d\d characters, expected at most 131072",
    ),
    "deeply nested": ("[" * 100_000, "line 2: no JSON: nested too deeply"),
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_malformed_line_is_named(tmp_path, line, message):
    path = written(tmp_path, json.dumps(GOOD[1]), line)
    with pytest.raises(UsageError, match=message):
        list(requests_from_file(path))


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is empty; expected one JSON object a line"):
        list(requests_from_file(written(tmp_path, "", "  ")))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        list(requests_from_file(tmp_path / "none.jsonl"))


def test_the_hash_covers_the_pictures(tmp_path):
    path = written(tmp_path, json.dumps(GOOD[0]))
    (tmp_path / "a.png").write_bytes(b"one")
    before = data_sha256(path)
    assert before == data_sha256(path)
    (tmp_path / "a.png").write_bytes(b"two")
    assert data_sha256(path) != before
