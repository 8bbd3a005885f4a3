"""The small tokenizer of kaleido-tiny: ``python -m training.tiny.tokenizer DATA_DIR OUT.model``.

A sentencepiece unigram model with T5's special ids (pad 0, end 1, unknown 2) and bytes for what it has never seen.
"""

import argparse
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

from .backdrop import LANDS, NIGHTS, PALETTE
from .emoji import EmojiSet, load_emoji
from .motion import MOTIONS
from .photos import PHOTOS
from .scene import sample_scenes

VOCABULARY = 2000
CAPTIONS = 200_000
_BATCH = 5_000
_WORD_REPEATS = 20  # as if each name stood in so many captions, held-out names too

logger = logging.getLogger("kaleido.training")


def corpus(emoji: EmojiSet, captions: int) -> Iterator[str]:
    """Captions of the training split, then every name and word that prompts are made of."""
    for seed in range(captions // _BATCH):
        yield from sample_scenes(emoji, _BATCH, references=seed % 4, seed=seed, split="train", frames=1).captions
    phrases = [phrase for motion in MOTIONS.values() for pair in motion.phrases for phrase in pair]
    words = [*sorted(set(emoji.names)), *PALETTE, *LANDS, *NIGHTS, *(photo.name for photo in PHOTOS), *phrases]
    for _ in range(_WORD_REPEATS):
        yield from words


def train_tokenizer(sentences: Iterator[str], vocabulary: int = VOCABULARY) -> bytes:
    """A serialised sentencepiece model."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences,
        model_writer=model,
        model_type="unigram",
        vocab_size=vocabulary,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,  # the same model each time
        minloglevel=2,
    )
    return model.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with emoji.zip")
    parser.add_argument("out", type=Path, help="the model to write")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = train_tokenizer(corpus(load_emoji(arguments.data / "emoji.zip"), CAPTIONS))
    arguments.out.write_bytes(model)
    logger.info("%s: %d bytes", arguments.out, len(model))


if __name__ == "__main__":
    main()
