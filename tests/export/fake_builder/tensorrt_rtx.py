"""The same fake under the name of TensorRT for RTX."""

from tensorrt import *  # noqa: F403
from tensorrt import __version__  # noqa: F401
