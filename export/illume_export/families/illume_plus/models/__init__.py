"""Plain PyTorch modules of the `illume_plus` family; parameters are called as in its checkpoints."""

from illume_export.families.illume_plus.models.plus import IllumePlus, Mllm

__all__ = ["IllumePlus", "Mllm"]
