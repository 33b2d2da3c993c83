"""Every `illume` command that the README shows is one that the parser accepts."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from illume_runtime.cli.main import VERBS
from illume_runtime.cli.parser import VerbParser

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.strip()
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip().startswith("illume ")
]


def test_the_readme_shows_commands() -> None:
    assert len(COMMANDS) >= 5
    assert any("make demo" in block for block in BLOCKS)
    assert any("make test" in block for block in BLOCKS)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command: str) -> None:
    words = shlex.split(command, comments=True)[1:]
    verb = next(name for name in (" ".join(words[:2]), words[0]) if name in VERBS)
    words = words[len(verb.split()) :]
    parser = VerbParser(prog=f"illume {verb}", description="")
    importlib.import_module(VERBS[verb].module).add_arguments(parser)
    parser.parse_args(words)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", README):
        assert (ROOT / target).exists(), f"README.md links to {target}, which does not exist"
