"""What the report counts: the funnel, scores beside their thresholds, times, sources and borderline cases."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .clip import Clip


@dataclass(frozen=True)
class Step:
    """One stage: how many clips came in, and how many it dropped for each reason."""

    stage: str
    entered: int
    reasons: Mapping[str, int]

    @property
    def dropped(self) -> int:
        return sum(self.reasons.values())

    @property
    def kept(self) -> int:
        return self.entered - self.dropped


@dataclass(frozen=True)
class Limit:
    """A threshold, and the reason for which clips beyond it are dropped. ``above``: what is above it is dropped."""

    stage: str
    reason: str
    metric: str
    value: float
    above: bool


@dataclass(frozen=True)
class Score:
    """A metric over all clips that have it."""

    name: str
    kept: tuple[float, ...]
    dropped: tuple[float, ...]
    limits: tuple[Limit, ...]

    @property
    def values(self) -> tuple[float, ...]:
        return (*self.kept, *self.dropped)

    @property
    def varies(self) -> bool:
        return len(set(self.values)) > 1


@dataclass(frozen=True)
class Edge:
    """The clips nearest to a threshold, nearest first: kept ones and dropped ones with their values."""

    limit: Limit
    worst_kept: tuple[tuple[Clip, float], ...]
    best_dropped: tuple[tuple[Clip, float], ...]


@dataclass(frozen=True)
class Cost:
    """Seconds that a stage took."""

    stage: str
    clips: int
    total: float
    longest: float

    @property
    def each(self) -> float:
        return self.total / self.clips


@dataclass(frozen=True)
class Origin:
    """What came from videos under one licence."""

    licence: str
    videos: int
    clips: int
    kept: int
    seconds: float
    urls: tuple[str, ...]


def kept(clips: Iterable[Clip]) -> list[Clip]:
    return [clip for clip in clips if clip.dropped is None]


def stage_order(clips: Sequence[Clip]) -> list[str]:
    """Stages in the order in which the clips went through them: dropped clips may know only the first ones."""
    order: list[str] = []
    for clip in sorted(clips, key=lambda clip: -len(clip.stages)):
        place = 0
        for stage in (*clip.stages, *([clip.dropped.stage] if clip.dropped else [])):
            if stage in order:
                place = order.index(stage) + 1
            else:
                order.insert(place, stage)
                place += 1
    return order


def funnel(clips: Sequence[Clip]) -> tuple[Step, ...]:
    """Every stage counts the clips that came to it; a video cut into shots counts as its shots from the beginning."""
    steps: list[Step] = []
    left = len(clips)
    for stage in stage_order(clips):
        reasons = Counter(clip.dropped.reason for clip in clips if clip.dropped and clip.dropped.stage == stage)
        steps.append(Step(stage, left, dict(reasons.most_common())))
        left = steps[-1].kept
    return tuple(steps)


def refusals(clips: Iterable[Clip]) -> tuple[Step, ...]:
    """Tracks and pictures that did not pass, by stage; ``entered`` counts only them."""
    by_stage: dict[str, Counter[str]] = {}
    for clip in clips:
        for drop in clip.refused:
            by_stage.setdefault(drop.stage, Counter())[drop.reason] += 1
    return tuple(Step(stage, sum(found.values()), dict(found.most_common())) for stage, found in by_stage.items())


def scores(clips: Sequence[Clip], known: Sequence[Limit]) -> tuple[Score, ...]:
    """Every metric, with the thresholds ``known`` for it."""
    values: dict[str, tuple[list[float], list[float]]] = {}
    for clip in clips:
        for name, value in clip.metrics.items():
            values.setdefault(name, ([], []))[clip.dropped is not None].append(value)
    made = (
        Score(name, tuple(good), tuple(bad), tuple(limit for limit in known if limit.metric == name))
        for name, (good, bad) in values.items()
    )
    return tuple(sorted(made, key=lambda score: (not score.limits, score.name)))


def edges(clips: Sequence[Clip], known: Sequence[Limit], count: int = 4) -> tuple[Edge, ...]:
    """For each threshold that dropped a clip: the clips that nearly failed, and those that nearly passed."""
    made = (_edge(clips, limit, count) for limit in known)
    return tuple(edge for edge in made if edge.best_dropped)


def _edge(clips: Sequence[Clip], limit: Limit, count: int) -> Edge:
    def nearest(cases: Iterable[tuple[Clip, float]]) -> tuple[tuple[Clip, float], ...]:
        return tuple(sorted(cases, key=lambda case: abs(case[1] - limit.value))[:count])

    dropped = [
        (clip, clip.dropped.value)
        for clip in clips
        if (drop := clip.dropped)
        and (drop.stage, drop.reason, drop.metric) == (limit.stage, limit.reason, limit.metric)
    ]
    passed = [(clip, clip.metrics[limit.metric]) for clip in kept(clips) if limit.metric in clip.metrics]
    return Edge(limit, nearest(passed), nearest(dropped))


def costs(clips: Sequence[Clip]) -> tuple[Cost, ...]:
    """Seconds of each stage, in their order."""
    taken = {stage: [clip.seconds[stage] for clip in clips if stage in clip.seconds] for stage in stage_order(clips)}
    return tuple(Cost(stage, len(each), sum(each), max(each)) for stage, each in taken.items() if each)


def origins(clips: Sequence[Clip]) -> tuple[Origin, ...]:
    """By licence, most clips first."""
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.source.licence, []).append(clip)
    return tuple(
        Origin(
            licence,
            len({clip.source.key for clip in group}),
            len(group),
            len(kept(group)),
            sum(clip.end - clip.start for clip in kept(group)),
            tuple(sorted({clip.source.url for clip in group if clip.source.url})),
        )
        for licence, group in sorted(groups.items(), key=lambda item: -len(item[1]))
    )
