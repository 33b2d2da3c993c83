"""The text tokenizer: byte-level BPE of 512 ids, trained on the world's own sentences; then the control tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from random import Random

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from illume_export.models import IllumeConfig
from illume_training.world import caption_of, sample_edit, sample_question, sample_scene

CONTROL_TOKENS = {
    "end": "<|end|>",
    "start_of_image": "<start_of_image>",
    "end_of_image": "<end_of_image>",
    "end_of_line": "<end_of_line>",
    "begin": "<|begin|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
    "pad": "<|pad|>",
}


def sentences(count: int) -> Iterator[str]:
    """Sentences of the world."""
    rng = Random("tokenizer")
    for _ in range(count):
        scene = sample_scene(rng, "train")
        question = sample_question(scene, rng)
        yield from (caption_of(scene, rng).text, question.text, question.answer, sample_edit(rng, "train").text)


def train_tokenizer(config: IllumeConfig, num_scenes: int = 4000) -> Tokenizer:
    """A tokenizer whose ids are those of `config`: 512 of text, then the controls in the order of their ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.controls.end,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(num_scenes), trainer)
    for name, identifier in sorted(asdict(config.controls).items(), key=lambda item: item[1]):
        tokenizer.add_special_tokens([AddedToken(CONTROL_TOKENS[name], special=True)])
        got = tokenizer.token_to_id(CONTROL_TOKENS[name])
        if got != identifier:
            raise ValueError(f"tokenizer: {CONTROL_TOKENS[name]} got id {got}, expected {identifier}")
    return tokenizer
