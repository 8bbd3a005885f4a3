"""The thresholds that a run's settings name, for the clips' metrics: drawn whether they dropped a clip or not."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from kaleido_core.errors import ConfigError
from training.typed import build

from .clip import Clip
from .config import CurationConfig
from .quality import limits as of_quality
from .report_numbers import Limit

SETTINGS = "settings.json"


def limits(out: Path, clips: Sequence[Clip]) -> tuple[Limit, ...]:
    """Of the settings beside the clips, then what drops tell of others."""
    known = {(limit.stage, limit.reason, limit.metric): limit for limit in _of_settings(out)}
    for clip in clips:
        drop = clip.dropped
        if drop and drop.metric and math.isfinite(drop.threshold):
            limit = Limit(drop.stage, drop.reason, drop.metric, drop.threshold, drop.value > drop.threshold)
            known.setdefault((limit.stage, limit.reason, limit.metric), limit)
    return tuple(known.values())


def _of_settings(out: Path) -> list[Limit]:
    try:
        config = build(CurationConfig, json.loads((out / SETTINGS).read_text(encoding="utf-8")))
    except (OSError, ValueError, ConfigError):  # of another version, or none: the drops tell some
        return []
    made = [Limit("shots", "short", "seconds", config.shots.least, above=False)]
    for reason, metric, least, most in of_quality(config.quality):
        above = math.isfinite(most)
        made.append(Limit("quality", reason, metric, most if above else least, above))
    return [*made, Limit("duplicates", "copy", "bits", config.duplicates.bits, above=False)]
