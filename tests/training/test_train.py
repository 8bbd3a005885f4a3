"""The command line, from a cache to a LoRA that changes a clip, on the embedded model."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from kaleido_core import VideoSize, encode_references, load_text_encoder, load_tokenizer, load_vae
from kaleido_core.checkpoints.lora import Lora
from kaleido_core.generate import TINY_CONTEXT_ROWS
from training.batches import draw_noise
from training.config import ClipConfig, ModelConfig, NoiseConfig, ValidationConfig
from training.config_file import read_config
from training.distributed import Ranks
from training.train import DONE, REFUSED, main
from training.trainee import trainee_at_work
from training.validate import identity_scores, make_clips, quantile

CONFIGS = sorted((Path(__file__).parents[2] / "training/configs").glob("[!c]*.toml"))  # curation tests its own
TINY = next(path for path in CONFIGS if path.stem == "tiny_cpu")
SIZE = VideoSize(5, 64, 64)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Four clips of a square that slides, each with a picture of it as its reference."""
    folder = tmp_path_factory.mktemp("tiny")
    vae, text, tokenizer = load_vae("tiny"), load_text_encoder("tiny", dtype=torch.float32), load_tokenizer("tiny")
    tokenizer.length = TINY_CONTEXT_ROWS
    with torch.no_grad():
        contexts = text(*tokenizer([*(f"a {name} square" for name in ("red", "green", "blue", "white")), ""]))
        for index, colour in enumerate(((1, -1, -1), (-1, 1, -1), (-1, -1, 1), (1, 1, 1))):
            clip = torch.zeros(1, 3, SIZE.frames, SIZE.height, SIZE.width)
            for frame in range(SIZE.frames):
                clip[0, :, frame, 20:44, 2 * frame : 2 * frame + 24] = torch.tensor(colour)[:, None, None]
            (reference,) = encode_references(vae.encode, [clip[:, :, :1]], SIZE)
            tensors = {"latent": vae.encode(clip)[0], "context": contexts[index], "reference.0.0": reference[0]}
            save_file({name: value.contiguous() for name, value in tensors.items()}, folder / f"{index}.safetensors")
    save_file({"context": contexts[-1].contiguous()}, folder / "empty.safetensors")
    return folder


def test_the_tiny_config_trains_a_lora_that_the_core_can_use(cache, tmp_path, caplog):
    caplog.set_level(logging.INFO, "kaleido.training")
    changes = [f"run.folder={tmp_path}", f"data.cache={cache}", f"data.held_out={cache}", "run.steps=8"]
    changes += ["run.log_every=4", "validation.every=4", "validation.samples=2", "checkpoint.every=4"]
    words = [str(TINY), *(word for change in changes for word in ("--set", change))]
    assert main(words) == DONE
    assert "step 8/8: loss" in caplog.text
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [4, 8]
    held_out = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    assert len(held_out) == 2 and held_out[1] < held_out[0]
    assert len(Lora(tmp_path / "step-000008" / "lora.safetensors", 1.0).source.infos) == 10 * 10 * 3
    caplog.clear()
    assert main(words) == DONE
    assert "going on from" in caplog.text and "step 8/8" not in caplog.text


def test_a_mistake_is_told_in_one_line(root, tmp_path, capsys):
    words = [sys.executable, "-m", "training.train", str(TINY), "--set", "run.step=3"]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (REFUSED, 1) and "run.step is unknown" in done.stderr
    assert main([str(TINY), "--set", f"data.cache={tmp_path}"]) == REFUSED
    assert "python -m training.cache" in capsys.readouterr().err


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_of_ours_is_valid(path):
    read_config(path)


def test_the_full_config_is_the_official_recipe():
    config = read_config(next(path for path in CONFIGS if path.stem == "14b_full"))
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.betas, optimizer.eps, optimizer.weight_decay) == (5e-6, (0.9, 0.95), 1e-8, 1e-4)
    assert (optimizer.clip_norm, optimizer.decay, config.run.steps, config.run.micro_batch) == (
        0.1,
        "official",
        5000,
        1,
    )
    assert (config.schedule.warmup, config.schedule.kind, config.data.caption_dropout) == ("official", "constant", 0.1)


def test_clips_are_made_by_the_code_that_users_run(cache, tmp_path):
    picture = tmp_path / "a.png"
    Image.new("RGBA", (64, 64), (255, 0, 0, 255)).save(picture)
    config = read_config(TINY)
    assert config.model == ModelConfig("tiny", "lora", "fp32")
    clip = ClipConfig("a red square", (str(picture),))
    validation = ValidationConfig(1, steps=2, height=32, width=32, frames=5, clips=(clip,))
    config = type(config)(**{**vars(config), "validation": validation})
    ranks = Ranks(0, 1, torch.device("cpu"), 0, 1)
    with trainee_at_work(config, ranks) as trainee:
        scores = make_clips(trainee, config, tmp_path / "clips", ranks)
    assert Image.open(tmp_path / "clips" / "clip-1.png").width > 200
    assert list(scores) == ["identity/clip-1-reference-1"]


def test_identity_is_scored_where_the_metric_applies():
    drawing = np.zeros((64, 64, 4), np.uint8)
    drawing[8:56, 8:56] = (220, 40, 40, 255)
    drawing[20:44, 20:44] = (40, 40, 220, 255)
    frames = np.full((5, 128, 128, 3), 128, np.uint8)
    frames[:, 30:94, 30:94] = np.array(Image.fromarray(drawing).convert("RGB"))
    frames[:, 30:94, 30:94][:, drawing[..., 3] == 0] = 128
    picture = Image.fromarray(drawing)
    shown, plain = (identity_scores(clip, [picture])[0] for clip in (frames, np.full_like(frames, 128)))
    assert shown is not None and plain is not None and shown > plain + 1
    assert identity_scores(frames, [picture.convert("RGB")]) == [None]
    assert identity_scores(frames[:, :64], [picture]) == [None]


def test_levels_of_noise_of_the_held_out_loss_are_those_of_training():
    for noise in (NoiseConfig("uniform", shift="fixed", fixed_shift=1.0), NoiseConfig(shift="fixed", fixed_shift=1.0)):
        drawn = draw_noise(noise, torch.zeros(4000, 1, 1, 2, 2), range(4000)).sigma
        for share in (0.125, 0.5, 0.875):
            found = (drawn < quantile(noise, torch.tensor([share]))).float().mean().item()
            assert found == pytest.approx(share, abs=0.03)
