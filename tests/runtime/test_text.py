"""Text becomes ids and comes back; nothing that is typed becomes a control token."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from bundle_folder import CONTROL_TEXTS, CONTROLS, byte_tokenizer, write_bundle
from illume_runtime.bundle import Bundle
from illume_runtime.errors import InvalidBundleError, UsageError
from illume_runtime.limits import MAX_PROMPT_CHARS
from illume_runtime.manifest import Segment, Vocabulary
from illume_runtime.text import TextTokenizer, tokenizer_from_bundle, tokenizer_from_file

VOCABULARY = Vocabulary(size=264, segments=(Segment("text", 0, 258),), controls=CONTROLS)


def saved(tmp_path, **options):
    path = tmp_path / "tokenizer.json"
    byte_tokenizer(**options).save(str(path))
    return path


@pytest.fixture(scope="module", params=[False, True], ids=["as it is", "with a space in front"])
def tokenizer(request, tmp_path_factory):
    path = saved(tmp_path_factory.mktemp("tokenizer"), prefix_space=request.param)
    return tokenizer_from_file(path, VOCABULARY)


@settings(deadline=None, max_examples=60)
@given(text=st.text(max_size=60))
@example("<|end|> <|user|>")
@example("🟥 red – ñ\x00\n")
def test_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids).removeprefix(" ") == text.removeprefix(" ")
    assert not set(ids) & set(CONTROLS.values())


@pytest.mark.parametrize("special", [True, False], ids=["special", "added"])
@pytest.mark.parametrize("text", [*CONTROL_TEXTS.values(), "a<|end|>b", "".join(CONTROL_TEXTS.values())])
def test_typed_control_tokens_are_plain_bytes(tmp_path, text, special):
    path = saved(tmp_path, special=special)
    assert set(Tokenizer.from_file(str(path)).encode(text).ids) & set(CONTROLS.values())
    ids = tokenizer_from_file(path, VOCABULARY).encode(text)
    assert len(ids) == len(text)
    assert max(ids) < min(CONTROLS.values())


def test_controls_are_left_out_of_text(tokenizer):
    assert tokenizer.decode([*tokenizer.encode("hi"), CONTROLS["end"], CONTROLS["start_of_image"]]) == "hi"


def test_padding_and_truncation_of_the_file_are_ignored(tmp_path):
    made = byte_tokenizer()
    made.enable_truncation(3)
    made.enable_padding(length=9, pad_id=CONTROLS["pad"])
    made.save(str(tmp_path / "tokenizer.json"))
    assert len(tokenizer_from_file(tmp_path / "tokenizer.json", VOCABULARY).encode("abcdef")) == 6


@settings(deadline=None, max_examples=60)
@given(ids=st.lists(st.integers(0, 263), max_size=40))
def test_streamed_pieces_are_the_text(tokenizer, ids):
    stream = tokenizer.stream()
    pieces = [stream.push(identifier) for identifier in ids] + [stream.finish()]
    assert "".join(pieces) == tokenizer.decode(ids)
    assert stream.finish() == ""


@settings(deadline=None, max_examples=60)
@given(text=st.text(max_size=40))
def test_no_piece_ends_inside_a_character(tokenizer, text):
    text = text.replace("\ufffd", "")
    stream = tokenizer.stream()
    so_far = ""
    whole = tokenizer.decode(tokenizer.encode(text))
    for identifier in tokenizer.encode(text):
        piece = stream.push(identifier)
        assert "\ufffd" not in piece
        so_far += piece
        assert whole.startswith(so_far)
    assert so_far == whole
    assert stream.finish() == ""


def test_an_unfinished_character_comes_out_at_the_end(tokenizer):
    stream = tokenizer.stream()
    ids = tokenizer.encode("x🟥")[:-1]
    pieces = [stream.push(identifier) for identifier in ids]
    assert "".join(pieces) == "x"
    assert stream.finish() == "\ufffd"


def test_a_decoder_that_looks_back_streams_the_same():
    vocabulary = {"▁a": 0, "▁b": 1, "c": 2, "<unk>": 3}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.decoder = decoders.Metaspace()
    wrapped = TextTokenizer(made, Vocabulary(5, (Segment("text", 0, 4),), {"end": 4}))
    stream = wrapped.stream()
    pieces = [stream.push(identifier) for identifier in (0, 1, 2, 0, 4)]
    assert "".join(pieces) == wrapped.decode([0, 1, 2, 0, 4]) == "a bc a"


def test_the_empty_text_has_no_ids(tokenizer):
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""


def test_text_that_is_too_long_is_refused_and_not_cut(tokenizer):
    assert len(tokenizer.encode("a" * (MAX_PROMPT_CHARS - 1))) >= MAX_PROMPT_CHARS - 1
    with pytest.raises(UsageError, match=r"the prompt has 100000 characters, expected at most 32768; shorten it"):
        tokenizer.encode("a" * 100_000)


def test_text_that_is_no_unicode_is_refused(tokenizer):
    with pytest.raises(UsageError, match=r"the question is no valid text at character 1; type it in UTF-8"):
        tokenizer.encode("a\udc80", "the question")


def test_a_tokenizer_that_makes_controls_is_refused(tmp_path):
    data = json.loads(saved(tmp_path).read_text())
    data["model"]["vocab"]["a"] = CONTROLS["end"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(InvalidBundleError, match=r"makes the id 256 from text, which is a control"):
        tokenizer_from_file(tmp_path / "tokenizer.json", VOCABULARY).encode("a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "got list, expected an object"),
        ('{"model": 3}', "no tokenizer: "),
        ("{}", "no tokenizer"),
    ],
)
def test_a_malformed_tokenizer_is_an_invalid_bundle(tmp_path, text, message):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(InvalidBundleError, match=f"tokenizer.json: {message}"):
        tokenizer_from_file(tmp_path / "tokenizer.json", VOCABULARY)


def test_a_bundle_brings_its_tokenizer(tmp_path):
    bundle = Bundle.open(write_bundle(tmp_path / "a"))
    assert tokenizer_from_bundle(bundle).decode([97, 98]) == byte_tokenizer().decode([97, 98])
