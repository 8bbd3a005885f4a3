"""The same stages on Ray Data: a pool of actors for each stage, on one machine or a cluster; ``--engine ray``.

What a stage does to a clip is the local engine's own step, done-markers included: a run may be broken off under one
engine and go on under the other. Ray brings back-pressure between stages, and puts a new worker in a dead one's place.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, cast

from kaleido_core.errors import ConfigError
from training.typed import build

from .attempts import TRIES, attempts, forget, given_up
from .clip import Clip
from .engine import Tell, check_faults, is_all, is_fault, ordered, run_all, see, silent
from .packages import load
from .stage import EachStage, Place, Resources, Stage
from .timings import Entry, timed

logger = logging.getLogger("kaleido.curation.ray")

Row = dict[str, Any]  # Ray Data's own: "clip" is a Clip as JSON, "stop" why the run cannot go on ("": it can)

PACKAGE = "ray[data]"


def run(
    stages: Sequence[Stage], clips: Sequence[Clip], place: Place, workers: int = 1, tell: Tell = silent
) -> list[Clip]:
    """What ``engine.run`` gives. Stages that see one clip at a time stream into one another; one that sees all waits
    for what comes before it. ``workers`` is the most actors that a stage gets."""
    place = Place(place.out.resolve())  # workers may stand in another folder
    forget(place)
    for whole, group in groupby(stages, key=is_all):
        if whole:
            for stage in group:
                going = [clip for clip in clips if clip.dropped is None]
                gone = [clip for clip in clips if clip.dropped is not None]
                with timed(place, Entry("ray", 1, (stage.name,))):
                    clips = ordered([*run_all(stage, going, place), *gone])
                tell(stage.name, len(going), len(going))
        else:
            each = [cast(EachStage, stage) for stage in group]
            _start([stage for stage in stages if not is_all(stage)])
            with timed(place, Entry("ray", workers, tuple(stage.name for stage in each))):
                clips = ordered(list(_streamed(each, clips, place, workers, tell)))
    return list(clips)


def _start(stages: Sequence[Stage]) -> None:
    """Join the cluster of ``RAY_ADDRESS``, or begin one on this machine."""
    # Read when Ray is imported: it would tell its makers of every run.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = load("ray", PACKAGE)
    context = load("ray.data", PACKAGE).DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level="warning", log_to_driver=False)
        return
    # Each pool holds a worker as long as the stream runs: with fewer cores than stages the last would wait for ever.
    # The cores told are for counting only; the system shares the real ones out.
    wanted = sum(_resources(stage).cpus for stage in stages) + 1
    cores = max(os.cpu_count() or 1, round(wanted))
    ray.init(num_cpus=cores, include_dashboard=False, logging_level="warning", log_to_driver=False)
    check_cards(ray, sum(_resources(stage).gpus for stage in stages))


def check_cards(ray: Any, wanted: float) -> None:
    """Raises ``ConfigError`` when there are fewer: the last pool would wait for ever."""
    there = ray.cluster_resources().get("GPU", 0.0)
    if wanted > there:
        raise ConfigError(
            f"The stages take {wanted:.3g} GPUs at once and this machine has {there:.3g}. "
            "Lower models.gpus (0: none are counted), or name a cluster in RAY_ADDRESS."
        )


def _streamed(
    stages: Sequence[EachStage], clips: Sequence[Clip], place: Place, workers: int, tell: Tell
) -> Iterator[Clip]:
    going = [clip for clip in clips if clip.dropped is None]
    yield from (clip for clip in clips if clip.dropped is not None)
    if not going:
        return
    came: list[Clip] = []
    for row in _stream(stages, going, place, workers).iter_rows():
        if row["stop"]:
            raise ConfigError(row["stop"])
        came.append(from_row(row))
        tell(stages[-1].name, len(came), len(going))
    for stage in stages:
        failed = [clip for clip in came if clip.dropped and clip.dropped.stage == stage.name]
        check_faults(stage.name, sum(map(is_fault, failed)), len(came))
    yield from came


def _stream(stages: Sequence[EachStage], clips: Sequence[Clip], place: Place, workers: int) -> Any:
    data = load("ray.data", PACKAGE)
    rows = [to_row(clip) for clip in clips]
    # One clip a block: a block is what a worker takes at once, what is done again after a death, what pressure counts.
    stream = data.from_items(rows, override_num_blocks=len(rows))
    for stage in stages:
        needs = _resources(stage)
        stream = stream.flat_map(
            Worker,
            fn_constructor_args=(stage, place),
            compute=data.ActorPoolStrategy(min_size=1, max_size=max(1, workers)),
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
            memory=needs.gibibytes * 2**30 if os.environ.get("RAY_ADDRESS") else None,
        )
    return stream


class Worker:
    """Lives in an actor: holds a stage with its models and takes one clip after the other."""

    def __init__(self, stage: EachStage, place: Place) -> None:
        self.stage, self.place = stage, place

    def __call__(self, row: Row) -> list[Row]:
        if row["stop"] or (clip := from_row(row)).dropped is not None:
            return [row]
        try:
            return [to_row(made) for made in tried(self.stage, clip, self.place)]
        except ConfigError as error:  # a missing package or model; raised here, Ray would bury it in its own errors
            return [{**row, "stop": str(error)}]


def tried(stage: EachStage, clip: Clip, place: Place) -> list[Clip]:
    """``see``, unless it has ended its worker ``TRIES`` times in this run: Ray itself would try it for ever."""
    if attempts(stage, clip, place) >= TRIES:
        return [given_up(stage, clip)]
    return see(stage, clip, place)


def _resources(stage: Stage) -> Resources:
    return getattr(stage, "resources", Resources())


def to_row(clip: Clip) -> Row:
    return {"clip": json.dumps(asdict(clip), ensure_ascii=False, allow_nan=False), "stop": ""}


def from_row(row: Row) -> Clip:
    return build(Clip, json.loads(row["clip"]))
