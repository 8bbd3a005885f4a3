from functools import partial

import pytest
import torch
from torch import Tensor, nn

from kaleido_core import VAEConfig, WanVAE
from kaleido_core.errors import ShapeError
from kaleido_core.vae.layers import ChannelNorm
from kaleido_core.vae.tiling import decode_tiled, encode_tiled

HEIGHT, WIDTH = 72, 104
# One that divides neither side, strips of rows and of columns, a tile smaller than its surroundings, one tile.
CASES = [(17, (32, 56)), (17, (40, 104)), (5, (72, 24)), (1, (8, 40)), (1, (56, 48)), (5, (512, 512))]


def random_vae(base_width: int, seed: int = 0) -> WanVAE:
    """Weights that keep the size of what passes, norms and biases that no test could mistake for their beginnings."""
    generator = torch.Generator().manual_seed(seed)
    vae = WanVAE(VAEConfig(base_width=base_width)).eval().requires_grad_(False)
    for layer in vae.modules():
        if isinstance(layer, ChannelNorm):
            layer.gamma.uniform_(0.5, 1.5, generator=generator)
        elif isinstance(layer, nn.Conv2d | nn.Conv3d):
            layer.weight.normal_(0, layer.weight[0].numel() ** -0.5, generator=generator)
            assert layer.bias is not None
            layer.bias.normal_(0, 0.3, generator=generator)
    return vae


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    return random_vae(4)


def clip(frames: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, frames, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) * 2 - 1


def latent_of(frames: int, batch: int = 1) -> Tensor:
    shape = (batch, 16, (frames - 1) // 4 + 1, HEIGHT // 8, WIDTH // 8)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def error(value: Tensor, expected: Tensor) -> float:
    """The largest one, in units of the largest number."""
    assert value.shape == expected.shape and value.dtype == expected.dtype
    return ((value - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize(("frames", "tile"), CASES)
def test_decoding_in_tiles_is_decoding(vae, frames, tile):
    latent = latent_of(frames)
    whole = vae.decode(latent)
    assert 0.1 < whole.std() < 0.9  # neither nothing nor all clamped
    assert error(decode_tiled(vae, latent, tile), whole) <= 1e-5


@pytest.mark.parametrize(("frames", "tile"), CASES)
def test_encoding_in_tiles_is_encoding(vae, frames, tile):
    assert error(encode_tiled(vae, clip(frames), tile), vae.encode(clip(frames))) <= 1e-5


def test_tiles_take_batches_and_larger_chunks(vae):
    pixels, latent = clip(9, batch=2), latent_of(9, batch=2)
    assert error(encode_tiled(vae, pixels, (64, 64), chunk=8), vae.encode(pixels)) <= 1e-5
    assert error(decode_tiled(vae, latent, (64, 64), chunk=2), vae.decode(latent)) <= 1e-5


def test_nothing_is_lost_where_tiles_meet(vae):
    """A seam would be a jump across the edges of the tiles that the untiled clip has not."""
    latent, tile = latent_of(5), 32
    difference = decode_tiled(vae, latent, (tile, tile)) - vae.decode(latent)
    rows, columns = difference.abs().amax(dim=(0, 1, 2, 4)), difference.abs().amax(dim=(0, 1, 2, 3))
    for line in (rows, columns):
        at_the_seams = torch.cat([line[tile - 2 : tile + 2], line[2 * tile - 2 : 2 * tile + 2]])
        assert at_the_seams.max() <= 1e-5


def test_a_frame_of_a_tile_sees_far_beyond_it(vae):
    """The attention's reach: without the whole map there would be no way to be exact."""
    latent = latent_of(1)
    changed = latent.clone()
    changed[..., 0, 0] += 5
    far = (..., slice(-8, None), slice(-8, None))
    moved = (decode_tiled(vae, changed, (24, 24)) - decode_tiled(vae, latent, (24, 24)))[far]
    assert moved.abs().max() > 1e-4


@pytest.mark.parametrize("tile", [(0, 64), (64, 60), (-8, 64), (4, 4)])
def test_tiles_that_do_not_fit_the_latent_are_refused(vae, tile):
    message = rf"Tiles of {tile[0]} x {tile[1]} pixels: sides are positive multiples of 8\. Try 256"
    with pytest.raises(ShapeError, match=message):
        decode_tiled(vae, latent_of(1), tile)
    with pytest.raises(ShapeError, match=message):
        encode_tiled(vae, clip(1), tile)


def test_what_the_plain_path_refuses_tiles_refuse_too(vae):
    with pytest.raises(ShapeError, match="multiples of 8"):
        encode_tiled(vae, torch.zeros(1, 3, 1, 12, 16), (64, 64))
    with pytest.raises(ShapeError, match="Use 4, 8, 12"):
        encode_tiled(vae, clip(5), (64, 64), chunk=2)


@pytest.mark.parametrize("decode", [WanVAE.decode, partial(decode_tiled, tile=(64, 64))])
def test_pixels_can_be_written_where_the_caller_wants_them(vae, decode):
    latent = latent_of(5)
    room = torch.full((1, 3, 5, HEIGHT, WIDTH), float("nan"), dtype=torch.float16)
    assert decode(vae, latent, out=room) is room
    assert (room.float() - vae.decode(latent)).abs().max() <= 1e-3


@pytest.mark.parametrize("out", [torch.empty(1, 3, 4, HEIGHT, WIDTH), torch.empty(1, 3, 5, HEIGHT, WIDTH).byte()])
def test_room_that_does_not_fit_is_refused(vae, out):
    with pytest.raises(ShapeError, match=r"out holds .*; this latent decodes to .*\. Make it"):
        vae.decode(latent_of(5), out=out)
    with pytest.raises(ShapeError, match="leave it out"):
        decode_tiled(vae, latent_of(5), (64, 64), out=out)
