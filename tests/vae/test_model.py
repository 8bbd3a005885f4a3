import pytest
import torch

from kaleido_core import VAEConfig, WanVAE
from kaleido_core.errors import ShapeError
from kaleido_core.vae.model import channels_last

CLIPS = ("img_1f", "clip_9f", "clip_13f", "clip_5f_b2")
UNALIGNED = ("clip_7f_notaligned", "refs3_as_video_notaligned")


@pytest.fixture(scope="module")
def vae(golden):
    return golden.vae()


@pytest.fixture
def cases(golden):
    return golden.tensors("vae_cases")


def close(value, expected):
    torch.testing.assert_close(value, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", [*CLIPS, *UNALIGNED])
def test_encoding_is_the_official_one_before_and_after_normalising(vae, cases, case):
    seen = []
    hook = vae.conv1.register_forward_hook(lambda module, given, moments: seen.append(moments))
    try:
        latent = vae.encode(cases[f"{case}.video"])
    finally:
        hook.remove()
    close(seen[0].chunk(2, dim=1)[0], cases[f"{case}.mu_raw"])
    close(latent, cases[f"{case}.latent"])


@pytest.mark.parametrize("case", [*CLIPS, *UNALIGNED])
def test_decoding_is_the_official_one_and_clamped_only_at_the_end(vae, cases, case):
    latent, expected = cases[f"{case}.decode_in"], cases[f"{case}.decoded_unclamped"]
    close(vae.decode_unclamped(latent), expected)
    close(vae.decode(latent), expected.clamp(-1, 1))


def test_the_clamp_has_something_to_do(cases):
    assert cases["clip_9f.decoded_unclamped"].abs().max() > 1


@pytest.mark.parametrize(("case", "spare"), [("clip_7f_notaligned", 2), ("refs3_as_video_notaligned", 2)])
def test_frames_beyond_the_last_4k_plus_1_are_left_out_with_one_warning(vae, cases, caplog, case, spare):
    video = cases[f"{case}.video"]
    whole = vae.encode(video)
    assert torch.equal(vae.encode(video), whole)
    assert [record.name for record in caplog.records] == ["kaleido.vae"]
    assert f"{video.shape[2]} frames: the last {spare} are left out" in caplog.text
    assert torch.equal(vae.encode(video[:, :, :-spare]), whole)


@pytest.mark.parametrize("chunk", [4, 8, 12, 16])
@pytest.mark.parametrize("case", ["clip_9f", "clip_13f"])
def test_encoding_in_larger_chunks_changes_no_number(vae, cases, case, chunk):
    close(vae.encode(cases[f"{case}.video"], chunk=chunk), cases[f"{case}.latent"])


@pytest.mark.parametrize("chunk", [1, 2, 3, 8])
@pytest.mark.parametrize("case", ["clip_9f", "clip_13f"])
def test_decoding_in_larger_chunks_changes_no_number(vae, cases, case, chunk):
    close(vae.decode_unclamped(cases[f"{case}.decode_in"], chunk=chunk), cases[f"{case}.decoded_unclamped"])


@pytest.mark.parametrize("parts", [(1, 4, 4, 4), (5, 8), (9, 4)])
def test_the_encoder_with_its_history_sees_chunks_as_one_clip(vae, cases, parts):
    pixels, history = cases["clip_13f.video"], {}
    streamed = torch.cat([vae.encoder(part, history) for part in pixels.split(parts, dim=2)], dim=2)
    close(streamed, vae.encoder(pixels, {}))


@pytest.mark.parametrize("parts", [(1, 1, 1, 1), (1, 3), (2, 2), (3, 1)])
def test_the_decoder_with_its_history_sees_chunks_as_one_clip(vae, parts):
    latent, history = torch.randn(1, 16, 4, 2, 2, generator=torch.Generator().manual_seed(0)), {}
    streamed = torch.cat([vae.decoder(part, history) for part in latent.split(parts, dim=2)], dim=2)
    close(streamed, vae.decoder(latent, {}))


def test_what_comes_later_never_changes_what_came_before(vae, cases):
    pixels = cases["clip_13f.video"]
    latent = vae.encode(pixels)
    close(vae.encode(pixels[:, :, :5]), latent[:, :, :2])
    close(vae.decode(latent[:, :, :2]), vae.decode(latent)[:, :, :5])


def test_a_clip_does_not_depend_on_its_batch(vae, cases):
    video, latent = cases["clip_5f_b2.video"], cases["clip_5f_b2.decode_in"]
    close(torch.cat([vae.encode(clip) for clip in video.split(1)]), vae.encode(video))
    close(torch.cat([vae.decode(clip) for clip in latent.split(1)]), vae.decode(latent))


@pytest.mark.parametrize("shape", [(1, 3, 1, 12, 16), (1, 3, 1, 16, 20), (1, 3, 0, 16, 16)])
def test_clips_that_do_not_fit_are_refused(vae, shape):
    with pytest.raises(ShapeError, match="multiples of 8"):
        vae.encode(torch.zeros(shape))


def test_bfloat16_stays_close_to_float32(golden, cases):
    vae = golden.vae().bfloat16()
    pairs = {
        "encode": (vae.encode(cases["clip_9f.video"]), cases["clip_9f.latent"]),
        "decode": (vae.decode_unclamped(cases["clip_9f.decode_in"]), cases["clip_9f.decoded_unclamped"]),
    }
    for name, (value, exact) in pairs.items():
        assert value.dtype == torch.float32
        assert ((value - exact).norm() / exact.norm()).item() <= 3e-2, name


@pytest.mark.parametrize("chunk", [0, 1, 6])
def test_chunks_that_split_a_latent_frame_are_refused(chunk):
    with pytest.raises(ShapeError, match="Use 4, 8, 12"):
        WanVAE(VAEConfig(base_width=2)).encode(torch.rand(1, 3, 9, 16, 16), chunk=chunk)


def test_with_gradients_the_numbers_are_the_same_and_every_weight_learns(golden, cases):
    """Without gradients the layers write over what they have read."""
    vae, pixels = golden.vae(), cases["clip_9f.video"]
    latent, decoded = vae.encode(pixels), vae.decode_unclamped(cases["clip_9f.decode_in"])
    learning = golden.vae().requires_grad_(True)
    learned = learning.encode(pixels)
    close(learned, latent)
    again = learning.decode_unclamped(cases["clip_9f.decode_in"])
    close(again, decoded)
    (learned.square().mean() + again.square().mean()).backward()
    for name, weight in learning.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.any(), name


def test_what_was_given_is_never_written_over(vae, cases):
    pixels, latent = cases["clip_5f_b2.video"].clone(), cases["clip_5f_b2.decode_in"].clone()
    vae.encode(pixels)
    vae.decode(latent)
    assert torch.equal(pixels, cases["clip_5f_b2.video"]) and torch.equal(latent, cases["clip_5f_b2.decode_in"])


def test_the_layout_of_the_weights_changes_no_number(golden, cases):
    vae = channels_last(golden.vae())
    close(vae.encode(cases["clip_9f.video"]), cases["clip_9f.latent"])
    close(vae.decode_unclamped(cases["clip_9f.decode_in"]), cases["clip_9f.decoded_unclamped"])
    vae.load_state_dict(golden.vae().state_dict())
    assert vae.decoder.conv1.weight.stride(1) == 1
