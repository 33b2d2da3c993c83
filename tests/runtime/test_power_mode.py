"""The power mode of a Jetson stands beside every measurement, as its times mean nothing without it."""

import pytest

from illume_runtime import machine

MODES = "< PARAM TYPE=FILE NAME=CPU_ONLINE >\n< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=MODE_30W >\n"


@pytest.mark.parametrize(
    ("status", "modes", "expected"),
    [
        ("pmode:0002 fmode:quiet\n", MODES, "MODE_30W (2)"),
        ("pmode:0000", MODES, "MAXN (0)"),
        ("pmode:0007", MODES, "7"),
        ("pmode:0002", None, "2"),
        ("", MODES, ""),
        (None, None, ""),
    ],
)
def test_the_power_mode_is_named(monkeypatch, tmp_path, status, modes, expected):
    for name, text in (("POWER_STATUS", status), ("POWER_MODES", modes)):
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(machine, name, str(path))
    assert machine.this_machine().power_mode == expected
