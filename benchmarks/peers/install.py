"""The environment of each peer: `build/peers/NAME/venv`, with what `requirements/NAME.txt` says.

python -m benchmarks.peers.install                 all
python -m benchmarks.peers.install optimum genai   these

An environment takes 1 to 2 GB where it has torch. `llama-cpp-python` comes as source: compiling it takes half an hour
of one core.
"""

from __future__ import annotations

import subprocess
import sys
import venv

from benchmarks.peers.environments import ENVIRONMENTS, REQUIREMENTS, python_of


def install(name: str) -> None:
    """Make the environment anew."""
    python = python_of(name)
    venv.create(python.parents[1], with_pip=True, clear=True)
    subprocess.run([python, "-m", "pip", "install", "--requirement", REQUIREMENTS / f"{name}.txt"], check=True)


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
