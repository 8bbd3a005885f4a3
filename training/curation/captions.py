"""What a clip shows, in a sentence, and which of its words are subjects: told beside it, by a model, or guessed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from . import footage
from .clip import Clip
from .models.kinds import Captioner, Pixels
from .stage import Place, Resources


@dataclass(frozen=True)
class CaptionsConfig:
    """What the captioner is shown, and what is taken from it."""

    frames: int = 8  # that the captioner sees, evenly over the clip
    words: int = 6  # subjects at most


class Captions:
    """Keeps what a sidecar told. A word that is no part of the sentence is left out: it could not be pointed at."""

    name: ClassVar[str] = "captions"
    version: ClassVar[str] = "1"

    def __init__(
        self,
        config: CaptionsConfig,
        captioner: Callable[[], Captioner],
        by: str = "template",
        resources: Resources | None = None,
    ) -> None:
        """``by`` is written into the record: who captioned."""
        self.config, self._make, self._by = config, captioner, by
        self.resources = resources or Resources(gibibytes=2.0)

    @cached_property
    def _captioner(self) -> Captioner:
        return self._make()

    def one(self, clip: Clip, place: Place) -> Sequence[Clip]:
        if clip.caption:
            return [clip]
        sentence, words = self._captioner.caption(self._frames(clip, place))
        sentence = " ".join(sentence.split())
        if not sentence:
            return [clip.leave(self.name, "no caption")]
        found = tuple(dict.fromkeys(word for word in words if word and word in sentence))[: self.config.words]
        return [replace(clip, caption=sentence, caption_source=self._by, words=found)]

    def _frames(self, clip: Clip, place: Place) -> Sequence[Pixels]:
        fps = self.config.frames / (clip.end - clip.start)
        return footage.frames(clip, place, fps)[1][: self.config.frames]
