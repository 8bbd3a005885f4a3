"""All settings of a run of curation: strict TOML into frozen dataclasses, each stage's own beside the stage."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from kaleido_core.errors import ConfigError
from training.typed import build

from .captions import CaptionsConfig
from .captions_final import CaptionsFinalConfig
from .duplicates import DuplicatesConfig
from .export import ExportConfig
from .ingest import IngestConfig
from .pairs import PairsConfig
from .plates import PlatesConfig
from .quality import QualityConfig
from .references import ReferencesConfig
from .shots import ShotsConfig
from .subjects import SubjectsConfig


@dataclass(frozen=True)
class ModelsConfig:
    """Which model does what: "name" reads it from ``folder``, "name:PATH" from there; "" goes without."""

    folder: str = "models"
    detector: str = "nanodet-whole"
    segmenter: str = "u2netp"
    embedder: str = "efficientnet"
    faces: str = "dlib"
    text: str = "rapidocr"
    captioner: str = "template"
    image_text: str = ""
    inpainter: str = "telea"
    gpus: float = 0.0  # of a card, that a worker of captions, subjects and plates takes; Ray counts them


@dataclass(frozen=True)
class CurationConfig:
    """A table for each stage; what is absent keeps its default."""

    models: ModelsConfig = field(default_factory=ModelsConfig)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    shots: ShotsConfig = field(default_factory=ShotsConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    duplicates: DuplicatesConfig = field(default_factory=DuplicatesConfig)
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)
    subjects: SubjectsConfig = field(default_factory=SubjectsConfig)
    references: ReferencesConfig = field(default_factory=ReferencesConfig)
    plates: PlatesConfig = field(default_factory=PlatesConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    captions_final: CaptionsFinalConfig = field(default_factory=CaptionsFinalConfig)
    export: ExportConfig = field(default_factory=ExportConfig)


def read_config(path: Path) -> CurationConfig:
    """Raises ``ConfigError`` naming the file, and the key that is unknown or of another type."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return build(CurationConfig, table)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error}). Name a file such as curation_local.toml.") from error
    except (tomllib.TOMLDecodeError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error
