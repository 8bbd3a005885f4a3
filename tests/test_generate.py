"""From a line of text and two pictures to frames, against the official sampling loop."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from kaleido_core import Conditioning, VideoSize, encode_references, generate, sample, sigma_schedule
from kaleido_core.errors import ConfigError, ShapeError
from kaleido_core.generate import Models, encode_text, render, to_frames
from kaleido_core.references import letterbox_image
from kaleido_core.request import NEGATIVE_PROMPT, Request, defaults_for
from kaleido_core.text.tokenizer import Tokenizer

STAGES = ["text", "references", "sampling", "decoding"]


class ByteProcessor:
    """The goldens' tokenizer in SentencePiece's place: 3 + byte, end mark 1."""

    def encode(self, text):
        return [3 + byte for byte in text.encode()]

    def eos_id(self):
        return 1


@pytest.fixture(scope="module")
def models(golden):
    return Models(
        dit=golden.dit("dit_small"),
        vae=golden.vae(),
        text_encoder=golden.text_encoder("e2e_t5_weights", golden.info("e2e")["config"]["t5"]),
        tokenizer=Tokenizer(ByteProcessor(), golden.info("e2e")["text"]["L"]),  # pyright: ignore[reportArgumentType]
    )


@pytest.fixture
def tensors(golden):
    return golden.tensors("e2e")


@pytest.fixture
def images(tensors):
    return [tensors["ref_image0"].numpy(), tensors["ref_image1"].numpy()]


@pytest.fixture
def request_(golden):
    """The golden's run, as the official script does it: the whole line is encoded."""
    info = golden.info("e2e")
    prompt, *references = info["text"]["input_line"].split("@@")
    settings, (height, width) = info["config"], info["config"]["sampling_image_size"]
    return Request(
        prompt=prompt,
        references=tuple(references),
        height=height,
        width=width,
        frames=4 * (settings["latent_frames"] - 1) + 1,
        steps=settings["steps"],
        cfg=settings["cfg_scale"],
        shift=settings["shift"],
        negative=info["text"]["negative"],
        fps=settings["fps"],
        attach_paths=True,
    )


@pytest.fixture
def small(request_):
    """The same with less of everything."""
    return replace(request_, height=16, width=32, frames=5, steps=2)


@pytest.fixture
def golden_noise(tensors, monkeypatch):
    """The official noise in place of ours, whatever the seed."""
    noise = tensors["noise"].transpose(1, 2)
    module = importlib.import_module("kaleido_core.generate")  # the package's own name is the function

    def draw(shape, seed):
        assert tuple(shape) == noise.shape
        return noise

    monkeypatch.setattr(module, "initial_noise", draw)


def close(value, expected, tolerance):
    torch.testing.assert_close(value, expected, rtol=0, atol=tolerance)


def assert_same_frames(frames, expected):
    """At most one level off, on at most 1 % of the values."""
    difference = np.abs(frames.astype(int) - expected.numpy().astype(int))
    assert frames.dtype == np.uint8 and difference.max() <= 1 and (difference > 0).mean() <= 0.01


def test_each_part_gives_the_official_numbers(models, tensors, images, request_):
    context, negative = (models.text_encoder(tensors[f"{p}ids"], tensors[f"{p}mask"]) for p in ("", "negative_"))
    close(context, tensors["context"], 1e-5)
    close(negative, tensors["negative_context"], 1e-5)

    for index, image in enumerate(images):
        canvas = letterbox_image(Image.fromarray(image), request_.height, request_.width)
        assert np.array_equal(np.array(canvas), tensors[f"letterboxed{index}"].numpy())
    references = encode_references(models.vae.encode, images, request_.size)
    close(torch.stack(references, dim=1).squeeze(3), tensors["ref_latents"], 2e-5)

    noise, sigmas = tensors["noise"].transpose(1, 2), sigma_schedule(request_.steps, request_.shift)
    cond, uncond = Conditioning(context, references), Conditioning(negative, references)
    latent = sample(models.dit, noise, sigmas, cond, uncond, cfg=request_.cfg)
    close(latent.transpose(1, 2), tensors["latent"], 1e-4)

    pixels = models.vae.decode(latent)
    close(pixels, tensors["decoded"], 1e-4)
    assert_same_frames(to_frames(pixels), tensors["frames"])


def test_the_tokenizer_gives_the_official_ids(models, tensors, request_):
    ids, mask = models.tokenizer([request_.text, request_.negative])
    assert torch.equal(ids, torch.cat([tensors["ids"], tensors["negative_ids"]]))
    assert torch.equal(mask, torch.cat([tensors["mask"], tensors["negative_mask"]]))


@pytest.mark.usefixtures("golden_noise")
def test_the_whole_run_gives_the_official_frames(models, tensors, images, request_):
    steps, stages = [], []
    result = render(models, request_, images, steps.append, stages.append)
    close(result.latent.transpose(1, 2), tensors["latent"], 1e-4)
    assert_same_frames(result.frames, tensors["frames"])
    for index, view in enumerate(result.reference_views):
        difference = view.astype(int) - tensors[f"letterboxed{index}"].numpy().astype(int)
        assert view.dtype == np.uint8 and np.abs(difference).max() <= 1
    assert stages == STAGES and len(steps) == request_.steps


@pytest.mark.usefixtures("golden_noise")
def test_file_names_stay_out_of_the_text_unless_asked_for(models, tensors, images, golden, request_):
    clean = replace(request_, attach_paths=False)
    assert (request_.text, clean.text) == tuple(golden.info("e2e")["text"][k] for k in ("input_line", "prompt_part"))
    close(encode_text(models, [clean.text]), tensors["clean_prompt.context"], 1e-5)
    result = render(models, clean, images)
    close(result.latent.transpose(1, 2), tensors["clean_prompt.latent"], 1e-4)


def test_a_clip_is_told_by_its_request_alone(models, images, small):
    first, again = (render(models, small, images) for _ in range(2))
    assert torch.equal(first.latent, again.latent)
    other = render(models, replace(small, seed=1), images)
    assert not torch.equal(first.latent, other.latent)


def test_without_images_it_is_text_to_video(models, small):
    result = render(models, small, [])
    assert result.frames.shape == (5, 16, 32, 3) and result.reference_views == ()


def test_an_exception_in_a_callback_stops_the_run(models, images, small):
    stages = []

    def stop(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(models, small, images, stop, stages.append)
    assert stages == STAGES[:3]


def test_what_does_not_fit_is_refused_before_any_work(models, images, small):
    stages = []
    with pytest.raises(ShapeError, match="4 references"):
        render(models, small, images * 2, on_stage=stages.append)
    with pytest.raises(ShapeError, match="height 50"):
        render(models, replace(small, height=50), images, on_stage=stages.append)
    with pytest.raises(ConfigError, match="no prompt and no image"):
        generate("  ")
    assert stages == []


def test_levels_are_cut_down_not_rounded():
    pixels = torch.tensor([-1.5, -1.0, -0.9999, 0.0, 0.999, 1.0, 2.0]).view(1, 1, 1, 1, -1).expand(1, 3, 1, 1, -1)
    assert to_frames(pixels)[0, 0, :, 0].tolist() == [0, 0, 0, 127, 254, 255, 255]


def test_defaults_are_the_official_ones_for_any_path_but_tiny():
    official = defaults_for("models/kaleido_14b.safetensors")
    assert VideoSize(official.frames, official.height, official.width).latent_shape() == (1, 16, 21, 64, 112)
    assert (official.steps, official.cfg, official.shift, official.fps) == (50, 6, 7, 16)
    assert official.negative == NEGATIVE_PROMPT and NEGATIVE_PROMPT.startswith("色调艳丽，过曝")
    tiny = defaults_for("tiny")
    assert VideoSize(tiny.frames, tiny.height, tiny.width).latent_frames > 1
