import pytest

from illume_calibration.choices import BEGIN, END, main, write_into
from illume_runtime.errors import UsageError


def test_the_table_has_every_choice_of_every_stage(bundle, data, recipe, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert main([str(bundle), "--data", str(data), "--recipe", str(recipe), "--into", str(page)]) == 0
    captured = capsys.readouterr()
    rows = [line.split(" | ") for line in captured.out.splitlines()[2:]]
    of_steps = [row[1] for row in rows if row[0] == "| decoder, a step"]
    assert of_steps[:2] == ["float32", "the recipe"]
    assert {"W8A8 minmax", "W8A8 mse", "W8", "W8 gptq", "W8 awq gptq"} <= set(of_steps)
    assert {"W8A8 minmax smoothquant", "W8A8 minmax awq"} <= set(of_steps)  # by the recipe's ranges
    assert "left out: decoder" in captured.err  # 40 or 48 rows are no multiple of 32
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n| stage | choice")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text


def test_a_page_without_marks_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(UsageError, match="has no lines <!-- choices -->"):
        write_into(page, "table")
