"""The packages that drive a GPU, imported when a device is opened and not before."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from illume_runtime.errors import UnavailableError


@cache
def package(module: str, extra: str) -> Any:
    """The module. Raises UnavailableError: which extra to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise UnavailableError(
            f"the package {module} is not installed; install it with: pip install 'illume-rt[{extra}]'"
        ) from None
    except ImportError as error:  # PyCUDA's own module needs the driver's library
        raise UnavailableError(f"{module} cannot be loaded: {error}; see illume doctor") from error
