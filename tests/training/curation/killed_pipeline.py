"""A real run over small films with made-up models, to be killed: ``-m THIS RAW OUT``.

The models are classes that can be named: what was in hand is tried again by a process of its own.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from training.curation import pipeline
from training.curation.captions import Captions
from training.curation.captions_final import CaptionsFinal
from training.curation.config import CurationConfig
from training.curation.duplicates import Duplicates
from training.curation.ingest import Ingest
from training.curation.models.kinds import Pixels
from training.curation.pairs import Pairs
from training.curation.plates import Plates
from training.curation.quality import Quality, QualityConfig
from training.curation.references import References, ReferencesConfig
from training.curation.shots import Shots, ShotsConfig
from training.curation.stage import Stage
from training.curation.subjects import Subjects, SubjectsConfig

from .world import ColourEmbedder, ColourSegmenter, Fill, PlantedDetector

SMALL = CurationConfig(
    shots=ShotsConfig(least=2.0, most=4.1),
    quality=QualityConfig(side=200, mark=1.0),
    subjects=SubjectsConfig(side=60),
    references=ReferencesConfig(side=60, sharp=10.0),
)


class Names:
    """A captioner that says the same of every clip."""

    def caption(self, frames: Sequence[Pixels]) -> tuple[str, tuple[str, ...]]:
        return "A thing moves.", ("thing",)


def stages(config: CurationConfig) -> list[Stage]:
    return [
        Ingest(config.ingest),
        Shots(config.shots),
        Quality(config.quality),
        Duplicates(config.duplicates),
        Captions(config.captions, Names, "names"),
        Subjects(config.subjects, PlantedDetector, ColourSegmenter, ColourEmbedder),
        References(config.references),
        Plates(config.plates, PlantedDetector, ColourSegmenter, Fill),
        Pairs(config.pairs, ColourEmbedder, None, Fill),
        CaptionsFinal(config.captions_final),
    ]


if __name__ == "__main__":
    pipeline.make_stages = stages
    pipeline.curate(Path(sys.argv[1]), Path(sys.argv[2]), SMALL)
