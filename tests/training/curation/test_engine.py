"""The engine: what is done stays done, what changed is done anew, and one bad clip stops nobody."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from kaleido_core.errors import ConfigError, DataError
from training.curation import engine, timings
from training.curation.attempts import LETHAL, TRIES
from training.curation.clip import Clip
from training.curation.clips_file import read_clips
from training.curation.stage import Place, Resources, of_each
from training.data.record import Source

from .killed_run import CLIPS, Odd, Part, Pause, clips, stages


def plain(clips: Sequence[Clip]) -> list[Clip]:
    """Without the seconds that stages took."""
    return [replace(clip, seconds={}) for clip in clips]


def calls(folder: Path) -> list[str]:
    file = folder.parent / "calls"
    return file.read_text().splitlines() if file.exists() else []


def wait_until_gone(processes: set[int], seconds: float = 20.0) -> None:
    ending = time.monotonic() + seconds
    while processes := {number for number in processes if is_there(number)}:
        assert time.monotonic() < ending, f"{processes} outlive their run"
        time.sleep(0.05)


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def tree(folder: Path) -> dict[str, bytes]:
    """All files that a run leaves but those that hold times of it."""
    files = (path for path in folder.rglob("*.txt"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_every_clip_comes_out_once_dropped_or_not_in_the_order_of_sources_and_time(out: Path):
    made = engine.run(stages(0), list(reversed(clips())), Place(out))
    assert [clip.id for clip in made] == [f"{source}-{part}" for source in range(CLIPS) for part in range(3)]
    kept = [clip for clip in made if clip.dropped is None]
    assert {clip.metrics["count"] for clip in kept} == {len(kept)} == {CLIPS * 3 * 3 // 4}
    assert all(list(clip.stages) == ["part", "odd", "count"] for clip in kept)
    assert all(list(clip.stages) == ["part", "odd"] for clip in made if clip.dropped)


def test_workers_change_nothing(out: Path, tmp_path: Path):
    one = engine.run(stages(0), clips(), Place(out))
    three = engine.run(stages(0), clips(), Place(tmp_path / "other"), workers=3)
    assert plain(one) == plain(three)
    assert tree(out) == tree(tmp_path / "other")


def test_what_is_done_is_not_done_again(out: Path):
    first = engine.run(stages(0), clips(), Place(out))
    asked = len(calls(out))
    assert engine.run(stages(0), clips(), Place(out)) == first
    assert len(calls(out)) == asked == CLIPS * 3


def test_other_settings_another_version_or_another_clip_are_work_to_be_done(out: Path):
    engine.run([Part(Pause(0)), Odd(Pause(0))], clips(), Place(out))
    asked = len(calls(out))
    engine.run([Part(Pause(0)), Odd(Pause(0.001))], clips(), Place(out))
    assert len(calls(out)) == 2 * asked
    changed = [replace(clips()[0], caption="another"), *clips()[1:]]
    engine.run([Part(Pause(0)), Odd(Pause(0.001))], changed, Place(out))
    assert len(calls(out)) == 2 * asked + 3
    odd = Odd(Pause(0.001))
    odd.version = "2"  # pyright: ignore[reportAttributeAccessIssue]
    engine.run([Part(Pause(0)), odd], changed, Place(out))
    assert len(calls(out)) == 3 * asked + 3


class Writes:
    """Writes its setting into a file whose name does not depend on it, as pictures are written; may be ended then."""

    name: ClassVar[str] = "writes"
    version: ClassVar[str] = "1"

    def __init__(self, config: str, ended: bool = False) -> None:
        self.config, self.ended, self.resources = config, ended, Resources()

    def one(self, clip: Clip, place: Place) -> Sequence[Clip]:
        (place.out / "picture").write_text(self.config)
        if self.ended:
            raise KeyboardInterrupt
        return [clip]


def test_a_marker_does_not_outlive_the_files_that_it_stands_for(out: Path):
    out.mkdir(exist_ok=True)
    (one,) = clips()[:1]
    engine.see(Writes("a"), one, Place(out))
    with pytest.raises(KeyboardInterrupt):
        engine.see(Writes("b", ended=True), one, Place(out))
    engine.see(Writes("a"), one, Place(out))
    assert (out / "picture").read_text() == "a"


def test_a_marker_that_was_cut_off_or_is_of_an_older_form_is_work_to_be_done(out: Path):
    first = engine.run(stages(0), clips(), Place(out))
    (out / "state/odd/0-1.json").write_text('{"key": "')
    (out / "state/odd/0-2.json").write_text('{"old": true}')
    assert plain(engine.run(stages(0), clips(), Place(out))) == plain(first)
    assert len(calls(out)) == CLIPS * 3 + 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_is_killed_again_and_again_ends_with_what_a_calm_one_gives(
    out: Path, tmp_path: Path, root: Path, workers: int
):
    chance = random.Random(workers)
    command = [sys.executable, "-m", "tests.training.curation.killed_run", str(out), str(workers)]
    for part in (0.15, 0.7):
        point = round((part + chance.uniform(-0.08, 0.08)) * CLIPS * 4)
        process = subprocess.Popen(command, cwd=root)
        while process.poll() is None and len(list(out.glob("state/*/*.json"))) < point:
            time.sleep(0.002)
        assert process.returncode is None, "it ended before it was killed"
        process.send_signal(signal.SIGKILL)  # it alone: its workers are still there when the next run begins
        process.wait()
        assert not (out / "clips.jsonl").exists()
    subprocess.run(command, cwd=root, check=True)
    calm = engine.run(stages(), clips(), Place(tmp_path / "calm/out"))
    assert plain(read_clips(out / "clips.jsonl")) == plain(calm)
    assert tree(out) == tree(tmp_path / "calm/out")
    wait_until_gone({int(call.split()[1]) for call in calls(out)} - {os.getpid()})
    # What was in hand, or handed out, when it was killed is done twice, nothing else.
    assert len(calls(out)) <= CLIPS * 3 + 5 * workers


class Fails:
    """Fails on clips whose caption says how."""

    name: ClassVar[str] = "fails"
    version: ClassVar[str] = "1"
    FAULTS: ClassVar[dict[str, Exception]] = {
        "value": ValueError("no such thing"),
        "data": DataError("clip.mp4 is damaged. Convert it."),
        "config": ConfigError("model.onnx is missing. Fetch it."),
        "mistake": AssertionError("ours"),
    }

    def __init__(self) -> None:
        self.resources = Resources()

    def one(self, clip: Clip, place: Place) -> Sequence[Clip]:
        if clip.caption in self.FAULTS:
            raise self.FAULTS[clip.caption]
        if clip.caption == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return [clip]


def run_with(out: Path, faults: Sequence[str], count: int = 20, workers: int = 1) -> list[Clip]:
    captions = [*faults, *[""] * (count - len(faults))]
    made = [Clip(f"{number:03d}", Source(f"{number:03d}"), caption=caption) for number, caption in enumerate(captions)]
    return engine.run([Fails()], made, Place(out), workers)


def test_a_clip_on_which_a_stage_fails_is_dropped_with_the_error_and_the_others_go_on(out: Path):
    made = run_with(out, ["value", "data"])
    first, second = made[0].dropped, made[1].dropped
    assert first and (first.stage, first.reason, first.detail) == ("fails", "error", "ValueError: no such thing")
    assert second and second.reason == "unreadable" and "damaged" in second.detail
    assert not any(clip.dropped for clip in made[2:])


def test_a_stage_that_fails_too_often_stops_the_run(out: Path):
    run_with(out / "few", ["value"] * 3)
    run_with(out / "large", ["value"] * 5, count=100)
    with pytest.raises(DataError, match=r"fails failed on 4 of 20 clips.*run again"):
        run_with(out / "many", ["value"] * 4)


def test_damaged_clips_never_stop_a_run(out: Path):
    assert all(clip.dropped for clip in run_with(out, ["data"] * 20))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_missing_stops_a_run_at_once(out: Path, workers: int):
    with pytest.raises(ConfigError, match=r"model\.onnx is missing"):
        run_with(out, ["", "config"], workers=workers)


def test_a_clip_that_ends_its_worker_is_left_out_alone_and_its_neighbours_stay(out: Path):
    made = run_with(out, ["", "kill"], count=6, workers=2)
    lost = made.pop(1).dropped
    assert (
        lost and (lost.stage, lost.reason, lost.value) == ("fails", LETHAL, TRIES) and "fewer --workers" in lost.detail
    )
    assert not any(clip.dropped for clip in made)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_clip_that_was_in_hand_when_a_run_ended_cannot_end_the_next_one(out: Path):
    state = out / "state/fails"
    state.mkdir(parents=True)
    (state / "000.tries").write_text("7")
    (state / "001.tries").write_text("7")  # that run was killed from outside: it is not to blame
    made = run_with(out, ["kill"], count=4, workers=1)
    assert [clip.dropped.reason if clip.dropped else "" for clip in made] == [LETHAL, "", "", ""]
    assert not (state / "001.tries").exists()


def test_a_stage_that_sees_all_clips_loses_only_those_it_fails_on():
    def work(clip: Clip) -> int:
        return {"a": 1, "c": 3}[clip.id]

    made, faulty = of_each("rank", [Clip(name, Source()) for name in "abc"], work)
    assert [number for _, number in made] == [1, 3]
    assert [(clip.id, clip.dropped.reason) for clip in faulty if clip.dropped] == [("b", "error")]


def test_settings_of_a_stage_are_a_part_of_the_keys_of_all_later_ones(out: Path):
    engine.run([Part(Pause(0)), Odd(Pause(0))], clips(), Place(out))
    asked = len(calls(out))
    engine.run([Part(Pause(0.001)), Odd(Pause(0))], clips(), Place(out))
    assert len(calls(out)) == 2 * asked


def test_what_stages_took_on_the_wall_is_noted_once_for_work_that_was_done(out: Path):
    for _ in range(2):
        engine.run(stages(0), clips(), Place(out))
    found = {entry.stages: (entry.engine, entry.workers, entry.clips) for entry in timings.read(out)}
    assert found == {
        ("part",): ("local", 1, CLIPS),
        ("odd",): ("local", 1, CLIPS * 3),
        ("count",): ("local", 1, CLIPS * 3 * 3 // 4),
    }


def test_another_model_is_work_to_be_done_and_another_folder_of_models_is_not(out: Path):
    def asked(name: str, folder: str) -> int:
        stage = Odd(Pause(0))
        stage.make = partial(max, name, Path(folder))  # pyright: ignore[reportAttributeAccessIssue]
        engine.run([Part(Pause(0)), stage], clips(), Place(out))
        return len(calls(out))

    assert asked("nanodet", "models") == asked("nanodet", "elsewhere") == CLIPS * 3
    assert asked("grounding-dino", "models") == CLIPS * 3 * 2


def test_progress_is_told_for_every_clip(out: Path):
    told: list[tuple[str, int, int]] = []
    engine.run([Part(Pause(0)), Odd(Pause(0))], clips(), Place(out), tell=lambda *words: told.append(words))
    assert told == [*(("part", n, CLIPS) for n in range(1, CLIPS + 1)), *(("odd", n, 24) for n in range(1, 25))]


def test_no_clips_are_no_fault(out: Path):
    assert engine.run(stages(0), [], Place(out), workers=4) == []
