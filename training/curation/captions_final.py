"""The caption that is trained with: the kept subjects named in the order of their references."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from .clip import Clip
from .naming import NEUTRAL
from .stage import Place, Resources

ORDINALS = ("first", "second", "third")


@dataclass(frozen=True)
class CaptionsFinalConfig:
    """How subjects without a name are called."""

    alone: str = "the subject"
    ordinal: str = "the {ordinal} subject"
    sentence: str = "{subjects}."  # of a clip that nobody captioned


class CaptionsFinal:
    """Orders subjects as the caption names them; a guessed caption is written anew from what was kept."""

    name: ClassVar[str] = "captions_final"
    version: ClassVar[str] = "1"

    def __init__(self, config: CaptionsFinalConfig) -> None:
        self.config, self.resources = config, Resources(cpus=0.1)

    def one(self, clip: Clip, place: Place) -> Sequence[Clip]:
        labels = {picture.subject: picture.label for picture in clip.references if picture.role == "subject"}
        if not labels:
            return [clip.leave(self.name, "no reference")]
        order = sorted(labels, key=lambda subject: _place(labels[subject], clip.caption))
        ranks = {subject: rank for rank, subject in enumerate(order)}
        pictures = sorted(clip.references, key=lambda picture: ranks.get(picture.subject, len(ranks)))
        clip = replace(clip, references=tuple(pictures))
        if clip.caption_source not in ("", "template"):
            return [clip]
        return [replace(clip, caption=self._sentence([labels[subject] for subject in order]))]

    def _sentence(self, labels: Sequence[str]) -> str:
        named = [self._name(label, place, len(labels)) for place, label in enumerate(labels)]
        text = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
        return self.config.sentence.format(subjects=text[0].upper() + text[1:])

    def _name(self, label: str, place: int, count: int) -> str:
        if label and label != NEUTRAL:
            return f"{'an' if label[0] in 'aeiou' else 'a'} {label}"
        return self.config.alone if count == 1 else self.config.ordinal.format(ordinal=ORDINALS[min(place, 2)])


def _place(label: str, caption: str) -> int:
    """Where the caption names it; behind all others when it does not."""
    found = caption.find(label) if label else -1
    return found if found >= 0 else len(caption)
