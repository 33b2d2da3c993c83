"""A stand-in for `safetensors` where it is missing: the models' code imports it, random weights do not need it."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

from illume_runtime.errors import UnavailableError


def stand_in_for_safetensors() -> bool:
    """Put it there where the package is missing; whatever is asked of it raises UnavailableError."""
    if importlib.util.find_spec("safetensors") is not None:
        return False
    package, torch_part = ModuleType("safetensors"), ModuleType("safetensors.torch")

    def missing(*_: Any, **__: Any) -> Any:
        raise UnavailableError("safetensors is not installed; a checkpoint needs it: pip install safetensors")

    for module, names in ((package, ("safe_open",)), (torch_part, ("save_file", "save"))):
        for name in names:
            setattr(module, name, missing)
    package.__dict__.update(SafetensorError=type("SafetensorError", (Exception,), {}), torch=torch_part)
    sys.modules.update({"safetensors": package, "safetensors.torch": torch_part})
    return True
