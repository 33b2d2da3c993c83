"""The world of illume-tiny: scenes of coloured shapes, their pictures, and what can be said, asked and changed.

Torch-free and seeded: the same seed gives the same scene, picture and sentence on every machine.
"""

from illume_training.world.captions import Caption, Group, Relation, caption_of
from illume_training.world.drawings import drawing_of, sample_drawing
from illume_training.world.edits import EDIT_KINDS, Edit, sample_edit, sample_settled_edit
from illume_training.world.questions import Question, describe, sample_question
from illume_training.world.render import render
from illume_training.world.scene import Scene, SceneObject, Split, sample_scene

__all__ = [
    "EDIT_KINDS",
    "Caption",
    "Edit",
    "Group",
    "Question",
    "Relation",
    "Scene",
    "SceneObject",
    "Split",
    "caption_of",
    "describe",
    "drawing_of",
    "render",
    "sample_drawing",
    "sample_edit",
    "sample_question",
    "sample_scene",
    "sample_settled_edit",
]
