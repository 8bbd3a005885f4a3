"""A whole run, from a folder of videos to a manifest that training reads; models are made up, all else is real."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
pytest.importorskip("scenedetect", reason="scenedetect-headless is not installed")

from kaleido_core.errors import ConfigError
from training.curation import __main__ as command
from training.curation import pairs_file, pipeline
from training.curation.clips_file import read_clips
from training.curation.config import CurationConfig, ModelsConfig
from training.curation.models.kinds import Pixels
from training.curation.quality import QualityConfig
from training.curation.references import ReferencesConfig
from training.curation.shots import ShotsConfig
from training.curation.subjects import SubjectsConfig
from training.data.record import read_records

from .films import ffmpeg, write
from .world import ColourEmbedder, ColourSegmenter, Fill, PlantedDetector, Sprite, background

FPS = 8
NONE = ModelsConfig(faces="", text="", image_text="")
SMALL = CurationConfig(
    models=NONE,
    shots=ShotsConfig(least=2.0, most=4.1),
    quality=replace(QualityConfig(), side=200, mark=1.0),
    subjects=SubjectsConfig(side=60),
    references=ReferencesConfig(side=60, sharp=10.0),
)


class Names:
    """A captioner that says the same of every clip."""

    def caption(self, frames: list[Pixels]) -> tuple[str, tuple[str, ...]]:
        return "A thing moves.", ("thing",)


@pytest.fixture(scope="module", autouse=True)
def made_up_models() -> Iterator[None]:
    models = {
        "detector": PlantedDetector,
        "segmenter": ColourSegmenter,
        "embedder": ColourEmbedder,
        "captioner": Names,
        "inpainter": Fill,
    }
    with pytest.MonkeyPatch.context() as patch:
        for kind, model in models.items():
            patch.setattr(pipeline.make, kind, lambda *_, model=model: model())
        yield


def film(seed: int, seconds: float, sprite: Sprite) -> list[Pixels]:
    """A sprite that leans ever more on its way through a place."""
    pictures = []
    for number in range(round(seconds * FPS)):
        leaning = replace(sprite, lean=number / (seconds * FPS) * 1.6 - 0.8)
        pictures.append(leaning.draw(background(seed), 80 + 5 * number, 120))
    return pictures


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    red, blue = Sprite((210, 40, 40)), Sprite((40, 60, 220))
    write(folder / "two_shots.mp4", [*film(1, 4.0, red), *film(2, 4.0, blue)], FPS)
    (folder / "two_shots.json").write_text(json.dumps({"caption": "A thing.", "words": ["thing"], "licence": "CC0"}))
    write(folder / "dark.mp4", [picture // 12 for picture in film(3, 3.0, red)], FPS)
    ffmpeg("-i", folder / "two_shots.mp4", "-c", "copy", "-t", "2.5", folder / "copy.mp4")
    (folder / "broken.mp4").write_bytes(b"no video" * 50)
    return folder


@pytest.fixture(scope="module")
def out(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("out")
    pipeline.curate(raw, folder, SMALL)
    return folder


def files(out: Path) -> dict[str, bytes]:
    """All but markers and report, which tell how long a run took."""
    whole = [path for name in ("clips", "references", "official") for path in (out / name).rglob("*")]
    paths = [*whole, out / "manifest.jsonl", out / "settings.json"]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths if path.is_file()}


def test_training_reads_the_manifest_and_finds_every_file(out: Path):
    records = read_records(out / "manifest.jsonl")
    for record in records:
        assert record.references and Path(record.video).is_file()
        assert all(Path(picture.path).is_file() for picture in record.references)
    assert len(read_records(out / "official")) == len(records)
    assert (out / "report.html").is_file()


def test_every_clip_is_told_of_with_the_reason_why_it_was_dropped(out: Path):
    clips = {clip.id.split("-")[0]: clip for clip in read_clips(out / "clips.jsonl")}
    assert {name: clip.dropped.reason for name, clip in clips.items() if clip.dropped} == {
        "broken": "unreadable",
        "copy": "copy",
        "dark": "dark",
    }


def test_licences_go_the_whole_way(out: Path):
    assert {record.source.licence for record in read_records(out / "manifest.jsonl")} == {"CC0"}


def test_a_run_that_is_broken_off_in_every_stage_ends_as_if_it_had_not_been(raw: Path, out: Path, tmp_path: Path):
    stopped: set[str] = set()

    def stop_once(stage: str, done: int, count: int) -> None:
        if stage not in stopped:
            stopped.add(stage)
            raise KeyboardInterrupt

    for _ in range(20):
        with contextlib.suppress(KeyboardInterrupt):
            pipeline.curate(raw, tmp_path, SMALL, tell=stop_once)
            break
    assert len(stopped) >= 7
    assert files(tmp_path) == files(out)


def test_nothing_is_written_outside_of_the_output_folder(raw: Path, out: Path):
    assert sorted(path.name for path in raw.iterdir()) == sorted(
        ["broken.mp4", "copy.mp4", "dark.mp4", "two_shots.json", "two_shots.mp4"]
    )
    assert not list(out.rglob("*.part*"))


def test_an_output_folder_among_the_raw_videos_is_refused(raw: Path):
    with pytest.raises(ConfigError, match="Name a folder beside it"):
        pipeline.curate(raw, raw / "out", SMALL)
    assert not (raw / "out").exists()


def test_a_record_tells_who_captioned_and_which_models_and_settings_each_stage_had(out: Path):
    (first, *_) = read_records(out / "manifest.jsonl")
    assert first.stages["subjects"].split()[2:] == ["nanodet-whole", "u2netp", "efficientnet"]
    assert len(set(first.stages.values())) == len(first.stages) == 10
    assert first.stages["captions"].endswith("caption by sidecar")


def test_pictures_of_the_clip_itself_are_told_with_the_likeness_that_was_measured(out: Path):
    told = [p for clip in read_clips(out / "clips.jsonl") for p in pairs_file.read(out / pairs_file.path(clip))]
    own = [pairing.likeness for pairing in told if pairing.kind in ("masked", "other_time")]
    assert own and all(0.5 < likeness <= 1.0001 and likeness != 1.0 for likeness in own)


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert command.main([str(tmp_path / "absent"), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
