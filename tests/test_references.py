import hashlib
import io

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from kaleido_core import VideoSize, encode_references, letterbox
from kaleido_core.errors import DataError, ShapeError
from kaleido_core.references import clean_picture, fitted_size, letterbox_image

PILLOW_13 = int(PIL.__version__.split(".")[0]) >= 13  # its LANCZOS gives other bytes for some images
SMALL = (
    "wide_larger", "tall_larger", "wide_smaller", "tall_smaller", "square_odd", "rgba", "gray", "exact_ratio",
    "same_size", "tall_target",
)  # fmt: skip
FULL_SIZE = ("full_small_in", "full_tall_in", "full_out_tall")


def for_this_pillow(values, name):
    """What belongs to the installed Pillow, of a tensor or hash that may have two generations."""
    newer = f"{name}_pillow13"
    return values[newer if PILLOW_13 and newer in values else name]


@pytest.fixture
def images(golden):
    return golden.tensors("image_preprocess")


def to_levels(pixels):
    """Float ``[1 3 1 H W]`` in -1..1 -> uint8 ``[H W 3]``."""
    return (pixels[0, :, 0] * 127.5 + 127.5).round().byte().permute(1, 2, 0)


@pytest.mark.parametrize("case", SMALL)
def test_letterboxed_images_are_the_official_bytes(golden, images, case):
    settings = golden.info("image_preprocess")["cases"][case]
    image = Image.fromarray(images[f"{case}.in"].numpy())
    assert image.mode == settings["mode"]
    pixels, expected = letterbox(image, *settings["target_hw"]), for_this_pillow(images, f"{case}.letterboxed")
    assert torch.equal(to_levels(pixels), expected)
    normalised = (expected.permute(2, 0, 1).float() - 127.5) / 127.5
    assert torch.equal(pixels, normalised[None, :, None])
    if torch.equal(expected, images[f"{case}.letterboxed"]):
        assert torch.equal(pixels[0, :, 0], images[f"{case}.normalised"])


@pytest.mark.parametrize("case", FULL_SIZE)
def test_full_size_letterboxes_have_the_official_hash(golden, images, case):
    settings = golden.info("image_preprocess")["cases"][case]
    canvas = np.array(letterbox_image(Image.fromarray(images[f"{case}.in"].numpy()), *settings["target_hw"]))
    rows = for_this_pillow(images, f"{case}.letterboxed_rows")
    assert torch.equal(torch.from_numpy(canvas)[images[f"{case}.rows"]], rows)
    assert hashlib.sha256(canvas.tobytes()).hexdigest() == for_this_pillow(settings, "sha256_of_hwc_uint8")


def test_no_golden_image_is_left_out(golden):
    assert set(golden.info("image_preprocess")["cases"]) == {*SMALL, *FULL_SIZE}


def test_sizes_are_the_official_ones_to_the_float_rounding(golden):
    for row in golden.info("image_preprocess")["size_table"]["rows"]:
        size = fitted_size(*row["in_wh"], *row["target_hw"])
        # Where the official code fails on a side of 0 pixels, ours is 1.
        assert (0 not in size) if "error" in row else size == tuple(row["resized_wh"]), row


@pytest.mark.parametrize("target", [(1, 1), (7, 300), (300, 7), (33, 47), (128, 128)])
@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (1, 1), (40, 60)])
def test_any_image_fits_any_target(shape, target):
    pixels = letterbox(np.zeros((*shape, 3), np.uint8), *target)
    assert pixels.shape == (1, 3, 1, *target) and pixels.dtype == torch.float32
    assert pixels.min() == -1, "something of the black image is seen"
    assert pixels.max() <= 1


def test_what_the_image_leaves_free_is_white_and_shared_evenly():
    pixels = letterbox(np.zeros((10, 21, 3), np.uint8), 33, 42)[0, 0, 0]
    assert (pixels[6:26] == -1).all(), "20 rows of image"
    assert (pixels[:6] == 1).all() and (pixels[26:] == 1).all(), "6 above, the odd row below"


def test_an_array_a_tensor_and_a_picture_are_the_same_image():
    array = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    expected = letterbox(Image.fromarray(array), 32, 48)
    for image in (array, torch.from_numpy(array)):
        assert torch.equal(letterbox(image, 32, 48), expected)


def test_alpha_is_dropped_without_blending():
    rgba = np.random.default_rng(0).integers(0, 256, (30, 20, 4), dtype=np.uint8)
    assert torch.equal(letterbox(Image.fromarray(rgba), 32, 48), letterbox(rgba[..., :3].copy(), 32, 48))


def test_each_image_is_encoded_alone_as_a_clip_of_one_frame():
    size, seen = VideoSize(81, 32, 48), []

    def encode(pixels):
        seen.append(pixels)
        return torch.full((1, 16, 1, 4, 6), float(len(seen)))

    array = np.full((10, 10, 3), 90, np.uint8)
    ready = letterbox(np.zeros((20, 10, 3), np.uint8), 32, 48)
    references = encode_references(encode, [Image.fromarray(array), array, ready], size)
    assert [tuple(pixels.shape) for pixels in seen] == [(1, 3, 1, 32, 48)] * 3
    assert torch.equal(seen[0], seen[1]) and seen[2] is ready
    assert [float(reference.mean()) for reference in references] == [1, 2, 3]
    assert encode_references(encode, [], size) == ()


@pytest.mark.parametrize("shape", [(3, 32, 48), (1, 3, 1, 48, 32), (1, 3, 2, 32, 48), (32, 48, 3)])
def test_float_pixels_of_another_shape_are_refused(shape):
    with pytest.raises(ShapeError, match=r"must be \(1, 3, 1, 32, 48\). Use letterbox"):
        encode_references(lambda pixels: pixels, [torch.zeros(shape)], VideoSize(1, 32, 48))


@pytest.mark.parametrize(
    ("shape", "dtype"), [((8, 8, 3), "float32"), ((8, 8, 3), "int64"), ((8, 8, 4), "uint8"), ((8, 8), "uint8")]
)
def test_arrays_that_are_no_rgb_bytes_are_refused(shape, dtype):
    with pytest.raises(DataError, match=rf"{dtype}.*uint8 \[H W 3\]"):
        letterbox(np.zeros(shape, dtype), 32, 32)


def test_a_cleaned_picture_is_upright_and_lies_on_white():
    picture = Image.new("RGBA", (6, 4), (10, 20, 30, 0))
    picture.putpixel((0, 0), (200, 0, 0, 255))
    exif = picture.getexif()
    exif[0x0112] = 6  # shown turned a quarter clockwise
    buffer = io.BytesIO()
    picture.save(buffer, "png", exif=exif)
    clean = clean_picture(Image.open(buffer))
    assert clean.size == (4, 6) and clean.mode == "RGB"
    assert clean.getpixel((3, 0)) == (200, 0, 0) and clean.getpixel((0, 0)) == (255, 255, 255)


def test_a_letterboxed_picture_is_letterboxed():
    once = letterbox_image(Image.effect_noise((31, 57), 80), 48, 64)
    assert letterbox_image(once, 48, 64).tobytes() == once.tobytes()
