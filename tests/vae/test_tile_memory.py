"""At the real width, on the meta device: shapes and bytes without numbers."""

import pytest
import torch

from kaleido_core import WanVAE
from kaleido_core.errors import ConfigError
from kaleido_core.vae.tile_memory import BORROWED, choose_tile, decode_bytes, encode_bytes
from kaleido_core.vae.tiling import decode_tiled, encode_tiled

CLIP = (5, 512, 896)
MAPS = {"encode": (1, 3, *CLIP), "decode": (1, 16, 2, 64, 112)}
PLAIN = {"encode": WanVAE.encode, "decode": WanVAE.decode}
TILED = {"encode": encode_tiled, "decode": decode_tiled}
COUNT = {"encode": encode_bytes, "decode": decode_bytes}
RESULT = {"encode": 16 * 2 * 64 * 112 * 4, "decode": 3 * 5 * 512 * 896 * 4}  # bytes that come out, float32


@pytest.fixture(scope="module")
def full_width() -> WanVAE:
    with torch.device("meta"):
        return WanVAE().bfloat16()


@pytest.mark.parametrize("way", ["encode", "decode"])
def test_a_quarter_of_the_picture_takes_less_than_two_fifths_of_the_memory(full_width, peak_of, way):
    given = torch.empty(MAPS[way], device="meta")
    plain = peak_of(lambda: PLAIN[way](full_width, given))
    tiled = peak_of(lambda: TILED[way](full_width, given, (256, 448)))
    assert tiled - RESULT[way] <= 0.4 * (plain - RESULT[way])


@pytest.mark.parametrize("tile", [(512, 896), (256, 448), (168, 448)])
@pytest.mark.parametrize("way", ["encode", "decode"])
def test_the_bytes_of_a_tile_are_foretold(full_width, peak_of, way, tile):
    given = torch.empty(MAPS[way], device="meta")
    peak = peak_of(lambda: TILED[way](full_width, given, tile)) - RESULT[way]
    borrowed = BORROWED * 96 * tile[0] * tile[1] * 2 if way == "decode" else 0  # by cuDNN, not on the meta device
    assert COUNT[way](full_width, CLIP, tile) - borrowed == pytest.approx(peak, rel=0.04)


@pytest.mark.parametrize("way", ["encode", "decode"])
def test_the_plain_path_holds_the_past_and_three_and_a_half_chunks(full_width, peak_of, way):
    """The memory that the past and the work must take and nothing beside: no copy of a chunk is kept needlessly."""
    past = {"encode": 14.8, "decode": 24.9}[way]
    numbers = (past + 14) * 96 * 512 * 896
    peak = peak_of(lambda: PLAIN[way](full_width, torch.empty(MAPS[way], device="meta")))
    assert peak - RESULT[way] <= 1.04 * 2 * numbers


@pytest.mark.parametrize("way", ["encode", "decode"])
@pytest.mark.parametrize("clip_size", [(81, 720, 1280), (81, 512, 896), (1, 64, 64)])
def test_the_chosen_tile_keeps_to_its_budget(full_width, way, clip_size):
    budget = 2 * 2**30
    tile = choose_tile(COUNT[way], full_width, clip_size, budget)
    assert COUNT[way](full_width, clip_size, tile) <= budget
    assert all(side % 8 == 0 for side in tile)


def test_with_room_for_all_there_is_one_tile(full_width):
    assert choose_tile(decode_bytes, full_width, (81, 512, 896), 2**40) == (512, 896)


def test_a_budget_for_no_tile_is_refused(full_width):
    with pytest.raises(ConfigError, match=r"64 MiB for a clip of 720 x 1280: its smallest tile needs \d+ MiB. Free"):
        choose_tile(decode_bytes, full_width, (81, 720, 1280), 2**26)


# Peaks beside result and inputs in bytes, 81 frames in bfloat16, channels last, on one H200.
GIB = 2**30


@pytest.mark.parametrize(
    ("way", "size", "tile", "measured"),
    [
        ("decode", (512, 896), (512, 896), 3.40 * GIB - 81 * 512 * 896 * 12),
        ("decode", (512, 896), (512, 448), 1.59 * GIB),
        ("decode", (720, 1280), (720, 1280), 6.8 * GIB - 81 * 720 * 1280 * 12),
        ("encode", (512, 896), (512, 896), 1.93 * GIB),
        ("encode", (512, 896), (512, 448), 1.085 * GIB),
    ],
)
def test_what_was_measured_on_a_card_is_foretold(full_width, way, size, tile, measured):
    assert COUNT[way](full_width, (81, *size), tile) == pytest.approx(measured, rel=0.01)


def test_a_picture_takes_less_than_a_clip(full_width, peak_of):
    given = torch.empty(1, 3, 1, 512, 896, device="meta")
    counted = encode_bytes(full_width, (1, 512, 896), (512, 896))
    assert counted == pytest.approx(peak_of(lambda: encode_tiled(full_width, given, (512, 896))), rel=0.05)
    assert counted < encode_bytes(full_width, CLIP, (512, 896))
