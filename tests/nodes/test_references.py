"""Kaleido References: which images, in which order, how prepared."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kaleido_core import VideoSize, encode_references, letterbox, load_vae

from .conftest import Pack, image
from .test_graph import SIZE, references_node

KEY = "time_dim_concat"


@pytest.fixture(scope="module")
def module(pack: Pack) -> Any:
    return pack.module("nodes.references")


def latents_of(pack: Pack, conditioning: Any) -> torch.Tensor:
    return pack.normalised(conditioning[0][1][KEY])


def expected(pictures: list[Image.Image], size: VideoSize = SIZE) -> torch.Tensor:
    return torch.cat(encode_references(load_vae("tiny").encode, pictures, size), dim=2)


def test_both_branches_get_every_reference_alone_and_letterboxed(pack: Pack, demo, pictures):
    _, positive, negative, latent, _ = references_node(pack, demo, pictures)
    for branch in (positive, negative):
        assert (latents_of(pack, branch) - expected(pictures)).abs().max() < 1e-4
    assert latent["samples"].shape == SIZE.latent_shape() and not latent["samples"].any()


def test_empty_sockets_are_left_out_and_order_stays(pack: Pack, demo, pictures):
    sockets = {"image1": None, "image2": image(pictures[2]), "image5": image(pictures[0])}
    _, positive, *_ = references_node(pack, demo, [], references=sockets)
    assert (latents_of(pack, positive) - expected([pictures[2], pictures[0]])).abs().max() < 1e-4


def test_a_batch_of_images_is_several_references(pack: Pack, demo, pictures):
    square = [picture.resize((48, 48)) for picture in pictures]
    _, positive, *_ = references_node(pack, demo, [], references={"image1": image(*square)})
    assert (latents_of(pack, positive) - expected(square)).abs().max() < 1e-4


def test_no_references_leave_the_conditioning_alone(pack: Pack, demo):
    for sockets in ({}, None):
        _, positive, *_ = references_node(pack, demo, [], references=sockets)
        assert KEY not in positive[0][1]


def test_more_than_three_need_the_switch(pack: Pack, demo, pictures):
    four = [*pictures, pictures[0]]
    with pytest.raises(ValueError, match="at most 3"):
        references_node(pack, demo, four)
    _, positive, *_ = references_node(pack, demo, four, allow_more=True)
    assert positive[0][1][KEY].shape[2] == 4


def test_the_sheet_shows_what_the_model_sees(pack: Pack, demo, pictures):
    *_, sheet = references_node(pack, demo, pictures[:2])
    empty = references_node(pack, demo, [])[-1]
    assert sheet.ndim == 4 and sheet.shape[0] == 1 and sheet.min() >= 0 and sheet.max() <= 1
    assert sheet.shape[2] > empty.shape[2]


@pytest.mark.parametrize(("size", "height", "width"), [("demo 128x128", 128, 128), ("custom", 48, 80)])
def test_a_named_size_takes_the_place_of_width_and_height(pack: Pack, demo, size: str, height: int, width: int):
    latent = references_node(pack, demo, [], size=size, width=80, height=48)[3]
    assert latent["samples"].shape[-2:] == (height // 8, width // 8)


@pytest.mark.parametrize("wrong", [{"length": 6}, {"width": 50}])
def test_a_size_that_cannot_be_names_the_nearest(pack: Pack, demo, wrong: dict[str, int]):
    with pytest.raises(ValueError, match="nearest is"):
        references_node(pack, demo, [], **wrong)


def test_a_mask_whitens_the_background_unless_it_is_a_scene(module, pictures):
    picture = image(pictures[1].resize((64, 64)))
    mask = torch.zeros(1, 32, 32)
    mask[:, :, 16:] = 1
    for role, marks, white in (
        ("subject", "subject", "left"),
        ("face", "background", "right"),
        ("scene", "subject", ""),
    ):
        ((array, keep),) = module.gather({"image1": picture}, {"mask1": mask}, (role,), marks)
        view = np.asarray(module.prepare_reference(array, VideoSize(1, 64, 64), "letterbox", keep))
        halves = {"left": view[:, :28], "right": view[:, 36:]}
        assert [name for name, half in halves.items() if (half == 255).all()] == ([white] if white else [])
    assert np.array_equal(view, np.asarray(pictures[1].resize((64, 64))))


def test_a_mask_that_keeps_nothing_says_what_to_turn(module, pictures):
    """What Load Image gives for a picture without transparency."""
    with pytest.raises(Exception, match="mask_marks the other way"):
        module.gather({"image1": image(pictures[0])}, {"mask1": torch.zeros(1, 64, 64)}, ("subject",), "subject")


def test_a_mask_without_its_image_is_refused(module):
    with pytest.raises(Exception, match="image2 is not"):
        module.gather({}, {"mask2": torch.ones(1, 8, 8)}, ("subject",) * 3, "subject")


def test_crop_fills_the_frame_and_letterbox_shows_all(module):
    wide = np.zeros((32, 128, 3), np.uint8)
    views = {
        fit: np.asarray(module.prepare_reference(wide, VideoSize(1, 64, 64), fit)) for fit in ("crop", "letterbox")
    }
    assert not views["crop"].any() and views["letterbox"].any()
    same = ((letterbox(wide, 64, 64)[0, :, 0].permute(1, 2, 0) * 127.5) + 127.5).round().byte().numpy()
    assert np.array_equal(views["letterbox"], same)


def test_another_models_vae_is_refused_by_the_shape_it_gives(pack: Pack, demo, pictures):
    class Flux:
        def encode(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.zeros(1, 16, pixels.shape[1] // 8, pixels.shape[2] // 8)

    with pytest.raises(ValueError, match=r"Wan 2\.1 VAE"):
        references_node(pack, (*demo[:2], Flux()), pictures[:1])


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (1, 1, 8, 8)])
def test_masks_of_all_ranks_are_whole_masks(module, shape):
    assert module.keep_of(torch.ones(shape), 0, "subject", "subject").shape == (8, 8)


def test_transparency_becomes_white_and_grey_becomes_colour(module):
    clear = torch.tensor([0.0, 0.2, 0.0, 0.0]).expand(4, 4, 4)
    assert (module.to_picture(clear) == 255).all()
    assert module.to_picture(torch.zeros(4, 4, 1)).shape == (4, 4, 3)
