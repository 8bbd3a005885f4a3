"""Ray gives what the local engine gives, also when a worker dies on the way."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kaleido_core.errors import ConfigError
from training.curation import engine, ray_engine
from training.curation.attempts import LETHAL, TRIES
from training.curation.clip import Clip
from training.curation.ray_engine import from_row, to_row, tried
from training.curation.stage import Place, Resources
from training.data.record import Source


class Halve:
    """One clip becomes two; those of short videos are dropped."""

    name: ClassVar[str] = "halve"
    version: ClassVar[str] = "1"
    resources = Resources(cpus=0.5, gibibytes=0.1)

    def one(self, clip: Clip, place: Place) -> Sequence[Clip]:
        if clip.end < 2:
            return [clip.leave(self.name, "short", clip.end, 2.0)]
        middle = clip.end / 2
        return [replace(clip, id=f"{clip.id}-0", end=middle), replace(clip, id=f"{clip.id}-1", start=middle)]


class Measure:
    """Ends its process at the clips for which a file lies there: once (the file goes) or every time."""

    name: ClassVar[str] = "measure"
    version: ClassVar[str] = "1"
    resources = Resources(cpus=0.5, gibibytes=0.1)

    def one(self, clip: Clip, place: Place) -> Sequence[Clip]:
        once = place.out / f"{clip.id}.once"
        if once.exists():
            once.unlink()
            os._exit(1)
        if (place.out / f"{clip.id}.always").exists():
            os._exit(1)
        return [clip.measured(length=clip.end - clip.start)]


class Again(Measure):
    name: ClassVar[str] = "again"


class Rank:
    """Sees all clips: each one's place among them."""

    name: ClassVar[str] = "rank"
    version: ClassVar[str] = "1"

    def all(self, clips: Sequence[Clip], place: Place) -> Sequence[Clip]:
        return [clip.measured(rank=float(number)) for number, clip in enumerate(clips)]


class Needs:
    """Lacks a package."""

    name: ClassVar[str] = "needs"
    version: ClassVar[str] = "1"
    resources = Resources(cpus=0.5)

    def one(self, clip: Clip, place: Place) -> Sequence[Clip]:
        raise ConfigError("gizmo cannot be imported; pip install gizmo")


CLIPS = [Clip(f"clip-{number}", Source(f"{number}.mp4"), end=float(number + 1)) for number in range(5)]
STAGES = (Halve(), Measure(), Rank(), Again())


def untimed(clips: Sequence[Clip]) -> list[Clip]:
    return [replace(clip, seconds={}) for clip in clips]


def local(out: Path) -> list[Clip]:
    return untimed(engine.run(STAGES, CLIPS, Place(out)))


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray", reason="needs ray[data]")
    yield ray
    ray.shutdown()


def on_ray(out: Path) -> list[Clip]:
    return untimed(ray_engine.run(STAGES, CLIPS, Place(out), workers=2))


def test_ray_gives_what_the_local_engine_gives_and_does_nothing_twice(ray: Any, tmp_path: Path):
    made = on_ray(tmp_path / "ray")
    assert made == local(tmp_path / "local")
    for clip in CLIPS:  # it would end whoever works on it again
        (tmp_path / "ray" / f"{clip.id}-0.always").touch()
    assert on_ray(tmp_path / "ray") == local(tmp_path / "ray") == made


def test_a_killed_worker_is_replaced_and_only_the_clip_that_kills_every_worker_is_left_out(ray: Any, tmp_path: Path):
    (tmp_path / "clip-2-1.once").touch()
    (tmp_path / "clip-3-0.always").touch()
    made = {clip.id: clip for clip in on_ray(tmp_path)}
    lost = made.pop("clip-3-0").dropped
    assert lost is not None and (lost.stage, lost.reason, lost.value) == ("measure", LETHAL, TRIES)
    assert not (tmp_path / "clip-2-1.once").exists()
    rest = {clip.id: clip for clip in local(tmp_path / "local") if clip.id != "clip-3-0"}
    assert made.keys() == rest.keys()
    assert {name: clip.dropped for name, clip in made.items()} == {name: clip.dropped for name, clip in rest.items()}
    assert made["clip-2-1"].metrics["length"] == rest["clip-2-1"].metrics["length"]


def test_a_missing_package_stops_the_run_with_its_own_words(ray: Any, tmp_path: Path):
    with pytest.raises(ConfigError, match="pip install gizmo"):
        ray_engine.run([Needs()], CLIPS, Place(tmp_path))


def test_a_clip_is_the_same_after_its_way_through_ray():
    clip = CLIPS[0].measured(x=0.1).leave("quality", "dark", 1.0, 2.0)
    assert from_row(to_row(clip)) == clip


def test_deaths_of_earlier_runs_do_not_count(ray: Any, tmp_path: Path):
    for clip in CLIPS:
        file = tmp_path / "state" / "halve" / f"{clip.id}.tries"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(TRIES))
    assert on_ray(tmp_path) == local(tmp_path / "local")


def test_a_success_forgets_earlier_deaths(tmp_path: Path):
    state = tmp_path / "state" / "measure" / "clip-0.tries"
    state.parent.mkdir(parents=True)
    state.write_text(str(TRIES - 1))
    (made,) = tried(Measure(), CLIPS[0], Place(tmp_path))
    assert made.dropped is None and not state.exists()
