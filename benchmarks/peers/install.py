"""The environment of each peer: `build/peers/NAME/venv`, with what `requirements/NAME.txt` says.

python -m benchmarks.peers.install                 all
python -m benchmarks.peers.install optimum genai   these

An environment takes 1 to 2 GB where it has torch. `llama-cpp-python` comes as source and is compiled for this
machine's processor, which takes many minutes; a compiler is needed for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv

from benchmarks.peers.environments import ENVIRONMENTS, REQUIREMENTS, python_of, record_of, requirements_of

BUILD_OPTIONS = {"CMAKE_ARGS": "-DLLAVA_BUILD=OFF"}  # of llama.cpp: the language model alone


def install(name: str) -> None:
    """Make the environment anew."""
    python, record = python_of(name), record_of(name)
    record.unlink(missing_ok=True)
    venv.create(python.parents[1], with_pip=True, clear=True)
    command = [python, "-m", "pip", "install", "--requirement", REQUIREMENTS / f"{name}.txt"]
    subprocess.run(command, check=True, env={**os.environ, **BUILD_OPTIONS})
    record.write_text(requirements_of(name), encoding="utf-8")


def main(names: list[str]) -> None:
    """Install the environments of these names."""
    unknown = sorted(set(names) - set(ENVIRONMENTS))
    if unknown:
        raise SystemExit(f"there is no peer {', '.join(unknown)}; the peers are {', '.join(ENVIRONMENTS)}")
    for name in names or ENVIRONMENTS:
        install(name)
        print(f"{name}: installed", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
