"""What a run is watched by: held-out losses and clips, and that what they need is there before it begins."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from kaleido_core.errors import KaleidoError
from kaleido_core.request import DEFAULTS_TINY, Request
from training import validate
from training.config import CheckpointConfig, ClipConfig, Config, ModelConfig, RunConfig, ValidationConfig
from training.distributed import Ranks
from training.train import Run, open_samples, train
from training.trainee import trainee_at_work
from training.validate import held_out_losses, make_clips

from .small_run import small_config, small_dit, write_cache

ALONE = Ranks(0, 1, torch.device("cpu"), 0, 1)
SHORT = ValidationConfig(2, samples=3, sigmas=2)


def with_clip(folder: Path, clip: ClipConfig, **changes: object) -> Config:
    """A run on the embedded model, whose clips are as small as can be."""
    sizes = {"steps": 1, "height": 32, "width": 32, "frames": 1}
    validation = ValidationConfig(2, clips=(clip,), **(sizes | changes))  # pyright: ignore[reportArgumentType]
    return small_config(folder, model=ModelConfig("tiny", base="fp32"), validation=validation)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A red square, transparent around it; black where nobody should look."""
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[16:48, 16:48] = (255, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "square.png")
    return tmp_path / "square.png"


@pytest.mark.parametrize(
    ("references", "changes", "said"),
    [
        (["none.png"], {}, "none.png cannot be read as a picture"),
        ([__file__], {}, "cannot be read as a picture"),
        (["square.png"] * 4, {}, "4 references"),
        (["square.png"], {"vae": "none.safetensors", "text_encoder": "tiny"}, "none.safetensors does not exist"),
        (["square.png"], {"vae": "tiny", "text_encoder": "none.safetensors", "tokenizer": "tiny"}, "does not exist"),
        (["square.png"], {"tokenizer": "none.model"}, "holds no tokenizer"),
        (["square.png"], {"height": 40}, "height 40: sides are multiples of 16"),
    ],
)
def test_what_clips_lack_is_told_before_the_first_step(tmp_path, picture, monkeypatch, references, changes, said):
    monkeypatch.chdir(picture.parent)
    write_cache(tmp_path / "cache")
    config = with_clip(tmp_path, ClipConfig("a red square", tuple(references)), **changes)
    with pytest.raises(KaleidoError, match=said):
        train(config, *open_samples(config))
    assert not (tmp_path / "run").exists()


def test_clips_see_their_pictures_as_the_cache_does_and_are_guided_as_users_clips_are(tmp_path, picture, monkeypatch):
    seen: list[tuple[Request, np.ndarray]] = []
    render = validate.render

    def watched(models: object, request: Request, images: list[Image.Image]):
        result = render(models, request, images)  # pyright: ignore[reportArgumentType]
        seen.append((request, result.reference_views[0]))
        return result

    monkeypatch.setattr(validate, "render", watched)
    config = with_clip(tmp_path, ClipConfig("a red square", (str(picture),)))
    with trainee_at_work(config, ALONE) as trainee:
        make_clips(trainee, config, tmp_path / "clips", ALONE)
    ((request, view),) = seen
    assert view[0, 0].tolist() == [255, 255, 255] and view[16, 16].tolist() == [255, 0, 0]
    assert (request.cfg, request.reference_cfg) == (DEFAULTS_TINY.cfg, DEFAULTS_TINY.reference_cfg)


def test_held_out_samples_are_whole_but_for_the_limit_of_references(tmp_path):
    write_cache(tmp_path / "cache")
    config = small_config(tmp_path)
    data = replace(config.data, held_out=config.data.cache, max_references=1, sample_references=True)
    config = replace(config, data=replace(data, reference_dropout=1.0, caption_dropout=1.0), validation=SHORT)
    _, held_out = open_samples(config)
    assert held_out is not None
    drawn = [held_out.load(index, *(np.random.default_rng(index) for _ in range(2))) for index in range(8)]
    assert [len(sample.references) for sample in drawn] == [0, 1, 1, 1] * 2
    empty = load_file(tmp_path / "cache" / "empty.safetensors")["context"]
    assert not any(torch.equal(sample.context, empty) for sample in drawn)


def test_a_damaged_held_out_sample_is_named(tmp_path, caplog):
    write_cache(tmp_path / "cache")
    tensors = load_file(tmp_path / "cache" / "clip-1.safetensors")
    save_file(tensors | {"latent": tensors["latent"] * float("nan")}, tmp_path / "cache" / "clip-1.safetensors")
    config = small_config(tmp_path)
    config = replace(config, data=replace(config.data, held_out=config.data.cache), validation=SHORT)
    _, held_out = open_samples(config)
    assert held_out is not None
    with trainee_at_work(config, ALONE, small_dit()) as trainee:
        assert np.isfinite(held_out_losses(trainee, held_out, config, ALONE)["held_out_loss"])
    assert "the held-out loss leaves out clip-1: its latent" in caplog.text


def test_a_validation_that_was_interrupted_is_made_up_for(tmp_path, monkeypatch):
    write_cache(tmp_path / "cache")

    def lines(name: str) -> list[tuple[int, float | None, float | None]]:
        rows = map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())
        return [(row["step"], row.get("loss"), row.get("held_out_loss")) for row in rows]

    def run(name: str) -> bool:
        config = small_config(tmp_path, validation=SHORT, checkpoint=CheckpointConfig(every=1))
        data = replace(config.data, held_out=config.data.cache)
        config = replace(config, data=data, run=RunConfig(str(tmp_path / name), 5, batch=2, log_every=1))
        return train(config, *open_samples(config), small_dit())

    assert run("whole")
    complete, validate_ = Run._validate, [0]

    def killed(self: Run, held_out: object) -> None:
        validate_[0] += 1
        if validate_[0] in (1, 3):
            raise KeyboardInterrupt
        complete(self, held_out)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Run, "_validate", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run("broken")
    assert run("broken") and run("broken")
    assert lines("broken") == lines("whole")
    assert [step for step, _, held_out in lines("whole") if held_out] == [2, 4, 5]
    assert validate_ == [5], "one for each of the two that were interrupted, and no other twice"
