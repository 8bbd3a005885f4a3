"""Precision and recall of what a filter says against what was planted."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """Of ``planted`` things ``found`` were found; ``told`` is how many the filter named in all."""

    name: str
    planted: int
    told: int
    found: int

    @property
    def precision(self) -> float:
        return self.found / self.told if self.told else 1.0

    @property
    def recall(self) -> float:
        return self.found / self.planted if self.planted else 1.0

    def line(self) -> str:
        return f"| {self.name} | {self.planted} | {self.told} | {self.precision:.3f} | {self.recall:.3f} |"


HEADER = "| filter | planted | told | precision | recall |\n|---|---|---|---|---|"


def by_filter(truth: Mapping[str, str], told: Mapping[str, str]) -> tuple[Score, ...]:
    """``truth`` and ``told`` name the one fault of each clip, "" where there is none."""
    names = sorted({name for name in truth.values() if name})
    return tuple(_one(name, truth, told) for name in names)


def _one(name: str, truth: Mapping[str, str], told: Mapping[str, str]) -> Score:
    planted = {clip for clip, fault in truth.items() if fault == name}
    named = {clip for clip, fault in told.items() if fault == name}
    return Score(name, len(planted), len(named), len(planted & named))


def of_moments(name: str, films: Iterable[tuple[Sequence[float], Sequence[float]]], within: float = 0.1) -> Score:
    """``films`` are (true, told) moments in seconds; one moment told answers one true one, if it is near enough."""
    planted, told, found = 0, 0, 0
    for true, said in films:
        left = sorted(said)
        for moment in sorted(true):
            near = min(left, key=lambda other, moment=moment: abs(other - moment), default=None)
            if near is not None and abs(near - moment) <= within:
                left.remove(near)
                found += 1
        planted, told = planted + len(true), told + len(said)
    return Score(name, planted, told, found)
