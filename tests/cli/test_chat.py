"""The conversation over a pipe: turns, commands, and mistakes that do not end it."""

import json

import pytest
from PIL import Image

ANSWERED = {"said": "what is it?", "answer": "it is red", "finish_reason": "end"}


def events_of(illume, *words, stdin):
    code, out, err = illume("chat", "b", "--json", *words, stdin=stdin)
    assert (code, err) == (0, "")
    return json.loads(out)["events"]


def test_an_answer_is_printed_as_a_line(illume, fake):
    assert illume("chat", "b", stdin="what is it?\n/quit\nnever read\n") == (0, "it is red\n", "")
    ((_, messages, _),) = fake.calls
    assert messages == [{"role": "user", "content": ["what is it?"]}]


def test_turns_are_remembered_and_reset_forgets_them(illume, fake):
    illume("chat", "b", stdin="one\ntwo\n/reset\nthree\n")
    roles = [[message["role"] for message in messages] for _, messages, _ in fake.calls]
    assert roles == [["user"], ["user", "assistant", "user"], ["user"]]
    assert fake.calls[1][1][1]["content"] == ["it is red"]


def test_an_attached_picture_goes_with_the_next_turn_only(illume, fake, image_file):
    illume("chat", "b", stdin=f"/image {image_file}\nwhat is it?\nand now?\n")
    first, second = (messages[-1]["content"] for _, messages, _ in fake.calls)
    assert first[0] == "what is it?"
    assert isinstance(first[1], Image.Image)
    assert second == ["and now?"]


def test_a_drawn_picture_is_saved_and_re_enters_the_conversation(illume, fake, tmp_path):
    target = tmp_path / "out.png"
    events = events_of(illume, stdin=f"/draw a red circle\n/save {target}\nwhat is it?\n")
    assert events == [{"drew": "a red circle"}, {"saved": str(target)}, ANSWERED]
    assert fake.calls[-1][1][1]["content"][0].prompt == "a red circle"
    with Image.open(target) as image:
        assert image.size == (256, 256)


def test_draw_with_an_attached_picture_changes_that_picture(illume, fake, image_file):
    events_of(illume, "--image", image_file, stdin="/draw make it blue\n")
    assert [call[0] for call in fake.calls] == ["edit"]


def test_the_model_may_answer_with_a_picture(illume, fake, tmp_path):
    fake.draws_in_chat = True
    events = events_of(illume, stdin=f"draw a red circle\n/save {tmp_path / 'o.png'}\n")
    assert events[0] == {"picture": "drawn in chat"}
    assert (tmp_path / "o.png").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/sing", "there is no command /sing; /help lists them"),
        ("/draw", "/draw needs a prompt, for example: /draw a red circle"),
        ("/save x.png", "no picture was drawn yet; draw one with /draw PROMPT"),
    ],
)
def test_a_mistake_is_reported_and_the_conversation_goes_on(illume, fake, line, message):
    events = events_of(illume, stdin=f"{line}\nwhat is it?\n")
    assert events == [{"error": message, "exit_code": 2}, ANSWERED]


def test_empty_lines_are_not_turns(illume, fake):
    assert events_of(illume, stdin="\n  \n") == []
    assert fake.calls == []
