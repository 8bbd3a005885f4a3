"""Runs stages over clips on this machine. What is done stays done: a run that was killed goes on where it was.

``state/STAGE/CLIP.json`` tells that a stage saw a clip, under a key of stage, version, settings and the clip as it
came, with the settings of all stages before; another key is work to be done anew. Files are written whole or not at
all, and only below the output folder. A clip in hand when its worker died is tried again by a worker of its own.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import cast

import torch

from kaleido_core.errors import ConfigError, DataError
from training.typed import build

from .attempts import LETHAL, TRIES, attempt, attempts, finish, given_up
from .clip import Clip
from .stage import AllStage, EachStage, Place, Stage, failed
from .timings import Entry, timed

logger = logging.getLogger("kaleido.curation")

FAULTS = 0.05  # share of clips on which a stage may fail by an error of its own
FEW = 3  # that many may always

Tell = Callable[[str, int, int], None]  # stage, clips done, clips in all


@dataclass(frozen=True)
class Done:
    """A marker: the key of the work, and the clips that came out of it."""

    key: str
    clips: tuple[Clip, ...]


def silent(stage: str, done: int, count: int) -> None:
    """Tells nobody."""


def run(
    stages: Sequence[Stage], clips: Sequence[Clip], place: Place, workers: int = 1, tell: Tell = silent
) -> list[Clip]:
    """All clips, dropped ones too, in an order that depends on nothing but the clips."""
    for stage in stages:
        going = [clip for clip in clips if clip.dropped is None]
        gone = [clip for clip in clips if clip.dropped is not None]
        with timed(place, Entry("local", workers, (stage.name,))):
            came = run_all(stage, going, place) if is_all(stage) else run_each(stage, going, place, workers, tell)
        clips = ordered([*came, *gone])
    return list(clips)


def ordered(clips: Sequence[Clip]) -> list[Clip]:
    """By source, then by time, whichever worker was first."""
    return sorted(clips, key=lambda clip: (clip.source.path, clip.start, clip.id))


def is_all(stage: Stage) -> bool:
    return hasattr(stage, "all")


def run_each(stage: Stage, clips: Sequence[Clip], place: Place, workers: int, tell: Tell) -> list[Clip]:
    """Over the clips by ``workers`` processes; each loads the stage's models once."""
    each = cast(EachStage, stage)
    came: list[Clip] = []
    faults = 0
    for number, made in enumerate(_spread(each, clips, place, workers_for(each, clips, workers)), start=1):
        came += made
        faults += any(map(is_fault, made))
        check_faults(stage.name, faults, len(clips))
        tell(stage.name, number, len(clips))
    return came


def workers_for(stage: EachStage, clips: Sequence[Clip], workers: int) -> int:
    """A stage that takes next to nothing runs here: starting a process costs seconds."""
    return 1 if stage.resources.cpus < 1 else min(workers, len(clips))


def is_fault(clip: Clip) -> bool:
    """Whether a stage failed on it by an error of its own."""
    return clip.dropped is not None and clip.dropped.reason in ("error", LETHAL)


def check_faults(stage: str, faults: int, count: int) -> None:
    """Raises ``DataError`` when a stage fails so often that the stage must be at fault, not the clips."""
    if faults > max(FEW, FAULTS * count):
        raise DataError(
            f"stage {stage} failed on {faults} of {count} clips, more than {FAULTS:.0%}. "
            "The log names each error; mend the first one and run again: what is done is kept."
        )


def _spread(stage: EachStage, clips: Sequence[Clip], place: Place, workers: int) -> Iterator[list[Clip]]:
    """Clips that were in hand when a worker, or an earlier run, ended come first, each alone: one of them may do it
    again, and would take the others' work with it."""
    waiting = list(clips)
    while waiting:
        suspects = {clip.id for clip in waiting if attempts(stage, clip, place)}
        yield from (_alone(stage, clip, place) for clip in waiting if clip.id in suspects)
        waiting = [clip for clip in waiting if clip.id not in suspects]
        done = 0
        for made in _together(stage, waiting, place, workers):
            done += 1
            yield made
        if waiting and not done and not any(attempts(stage, clip, place) for clip in waiting):
            raise DataError(
                f"the workers of stage {stage.name} end before they begin, most often for want of memory. "
                "Run again with fewer --workers: what is done is kept."
            )
        waiting = waiting[done:]


def _together(stage: EachStage, clips: Sequence[Clip], place: Place, workers: int) -> Iterator[list[Clip]]:
    """In the clips' order, as far as all workers live."""
    if workers <= 1:
        yield from (see(stage, clip, place) for clip in clips)
        return
    with _pool(stage, place, workers) as pool:
        try:
            yield from pool.map(_see_here, clips)
        except BrokenProcessPool:
            logger.warning("a worker of stage %s was ended; its clips are tried again one by one", stage.name)
        finally:
            pool.shutdown(cancel_futures=True)


def _alone(stage: EachStage, clip: Clip, place: Place) -> list[Clip]:
    """By a process that has nothing else to do; left out when it ends every one of them."""
    for _ in range(TRIES):
        with _pool(stage, place, 1) as pool:
            try:
                return pool.submit(_see_here, clip).result()
            except BrokenProcessPool:
                logger.warning("%s ended the worker of stage %s", clip.id, stage.name)
    return [given_up(stage, clip)]


def _pool(stage: EachStage, place: Place, workers: int) -> ProcessPoolExecutor:
    threads = max(1, (os.cpu_count() or 1) // workers)
    return ProcessPoolExecutor(workers, _processes(), _begin, (stage, place, threads))


def _processes() -> BaseContext:
    """Never a fork of this process: OpenCV's and torch's threads, once started here, would not be there."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.curation.pipeline"])
    return context


_here: list[tuple[EachStage, Place]] = []  # what this worker process was started for


def _begin(stage: EachStage, place: Place, threads: int) -> None:
    _here[:] = [(stage, place)]
    torch.set_num_threads(threads)
    os.environ["OPENCV_FOR_THREADS_NUM"] = str(threads)  # OpenCV reads it when a stage loads it
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose run was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _see_here(clip: Clip) -> list[Clip]:
    ((stage, place),) = _here
    return see(stage, clip, place)


def see(stage: EachStage, clip: Clip, place: Place) -> list[Clip]:
    """One clip through one stage, unless that was done before; an error of the stage drops the clip by its name."""
    marker, key = _marker(stage, clip.id, place), _key(stage, [clip])
    if (before := _read(marker, key)) is not None:
        finish(stage, clip, place)
        return before
    marker.unlink(missing_ok=True)  # it would stand for files that are written over from here on
    began = time.perf_counter()
    try:
        with attempt(stage, clip, place):
            came = list(stage.one(clip, place))
    except ConfigError:
        raise  # a missing package or model is no fault of the clip
    except Exception as error:  # OpenCV and onnxruntime raise classes of their own; too many stop the run
        came = [failed(stage.name, clip, error)]
    came = [_signed(stage, _shared(one, len(came)), (time.perf_counter() - began) / len(came)) for one in came]
    return _write(marker, Done(key, tuple(came)))


def run_all(stage: Stage, clips: Sequence[Clip], place: Place) -> list[Clip]:
    """All clips at once, here."""
    marker, key = _marker(stage, "all", place), _key(stage, clips)
    if (before := _read(marker, key)) is not None:
        return before
    marker.unlink(missing_ok=True)
    began = time.perf_counter()
    came = list(cast(AllStage, stage).all(clips, place))
    check_faults(stage.name, sum(map(is_fault, came)), len(came))
    share = (time.perf_counter() - began) / max(1, len(came))
    came = [_signed(stage, one, share) for one in came]
    return _write(marker, Done(key, tuple(came)))


def _shared(clip: Clip, parts: int) -> Clip:
    """What earlier stages took for a video is divided among its clips."""
    return replace(clip, seconds={stage: round(taken / parts, 3) for stage, taken in clip.seconds.items()})


def _signed(stage: Stage, clip: Clip, seconds: float) -> Clip:
    versions = {**clip.stages, stage.name: settings_of(stage)}
    return replace(clip, stages=versions, seconds={**clip.seconds, stage.name: round(seconds, 3)})


def _marker(stage: Stage, name: str, place: Place) -> Path:
    return place.out / "state" / stage.name / f"{name}.json"


def _key(stage: Stage, clips: Sequence[Clip]) -> str:
    """Of all that the result depends on; how long earlier stages took is no part of it."""
    config = [getattr(stage, "config", None), *models_of(stage)]
    told = [asdict(replace(clip, seconds={})) for clip in clips]
    text = json.dumps([stage.name, stage.version, repr(config), told], sort_keys=True)
    return hashlib.sha1(text.encode()).hexdigest()


def settings_of(stage: Stage) -> str:
    """Version, digest of the settings, and models: provenance, and a part of the keys of all later stages."""
    models = list(dict.fromkeys(models_of(stage)))
    digest = hashlib.sha1(repr([getattr(stage, "config", None), *models]).encode()).hexdigest()
    return " ".join([stage.version, digest[:8], *models])


def models_of(stage: Stage) -> list[str]:
    """The models' names in the factories (``partial``) that a stage was given; folders may move."""
    return [name for value in vars(stage).values() for name in _names(value)]


def _names(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [name for inner in value.args for name in _names(inner)] if isinstance(value, partial) else []


def _read(marker: Path, key: str) -> list[Clip] | None:
    try:
        done = build(Done, json.loads(marker.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # not there, or of an older version: the work is done anew
        return None
    return list(done.clips) if done.key == key else None


def _write(marker: Path, done: Done) -> list[Clip]:
    """The clips as the marker tells them: a run that reads it later goes on with the very same."""
    marker.parent.mkdir(parents=True, exist_ok=True)
    unfinished = marker.with_name(f"{marker.name}.{os.getpid()}.part")
    text = json.dumps(asdict(done), ensure_ascii=False, allow_nan=False)
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, marker)
    return list(build(Done, json.loads(text)).clips)
