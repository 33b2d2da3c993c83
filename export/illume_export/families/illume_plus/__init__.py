"""The ILLUME+ family: two levels of visual tokens, twelve resolutions, a fast and a diffusion decoder."""

from illume_export.families.illume_plus.checkpoint import checkpoint_from_folder, checkpoint_from_folders
from illume_export.families.illume_plus.eager import EagerPipeline, pipeline_from_checkpoint
from illume_export.families.illume_plus.loader import Folders, config_from_folders, folders_in, holds, plus_from_folders
from illume_export.families.illume_plus.published import PUBLISHED

__all__ = [
    "PUBLISHED",
    "EagerPipeline",
    "Folders",
    "checkpoint_from_folder",
    "checkpoint_from_folders",
    "config_from_folders",
    "folders_in",
    "holds",
    "pipeline_from_checkpoint",
    "plus_from_folders",
]
