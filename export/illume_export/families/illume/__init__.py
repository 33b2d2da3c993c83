"""The ILLUME family: one level of semantic tokens, a diffusion detokenizer."""

from illume_export.families.illume.checkpoint import checkpoint_from_folder, holds
from illume_export.families.illume.eager import EagerPipeline, pipeline_from_checkpoint
from illume_export.families.illume.loader import config_from_checkpoint, illume_from_checkpoint
from illume_export.families.illume.save import checkpoint_from_model

__all__ = [
    "EagerPipeline",
    "checkpoint_from_folder",
    "checkpoint_from_model",
    "config_from_checkpoint",
    "holds",
    "illume_from_checkpoint",
    "pipeline_from_checkpoint",
]
