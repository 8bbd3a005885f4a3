import numpy as np
import pytest
import torch

from kaleido_core import VideoSize, encode_references
from training.step import Batch, drop_text, flow_matching_loss, flow_matching_losses, sample_sigma, shift_sigma

CASES = ("ref2_b1", "ref3_b2", "dyn2_b1")


@pytest.fixture(scope="module")
def tensors(golden):
    return golden.tensors("training")


@pytest.fixture(scope="module")
def info(golden):
    return golden.info("training")


@pytest.fixture(scope="module")
def dit(golden):
    return golden.dit("dit_small")


def batch_of(golden, tensors, case):
    """A golden case as we hold it: batch, noise, sigma."""
    latent, noise = (tensors[f"{case}.{name}"].transpose(1, 2) for name in ("latent", "noise"))
    batch = Batch(latent, tensors[f"{case}.context"], golden.references(tensors, case))
    return batch, noise, tensors[f"{case}.sigma"]


@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_the_official_one(golden, tensors, info, dit, case):
    seen = {}

    def model(latent, sigma, context, references):
        seen["noisy"], seen["prediction"] = latent, dit(latent, sigma, context, references)
        return seen["prediction"]

    batch, noise, sigma = batch_of(golden, tensors, case)
    losses = flow_matching_losses(model, batch, noise, sigma)
    torch.testing.assert_close(losses, tensors[f"{case}.loss_per_sample"], rtol=1e-5, atol=0)
    loss = flow_matching_loss(dit, batch, noise, sigma)
    torch.testing.assert_close(loss, tensors[f"{case}.loss"], rtol=1e-5, atol=0)
    assert loss.item() == pytest.approx(info["cases"][case]["loss"], rel=1e-5)
    torch.testing.assert_close(seen["noisy"].transpose(1, 2), tensors[f"{case}.noisy"], rtol=0, atol=1e-6)
    torch.testing.assert_close(seen["prediction"].transpose(1, 2), tensors[f"{case}.prediction"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_every_gradient_is_the_official_one(golden, tensors, info, case):
    dit = golden.dit("dit_small").requires_grad_(True)
    flow_matching_loss(dit, *batch_of(golden, tensors, case)).backward()
    gradients = {name: parameter.grad for name, parameter in dit.named_parameters()}
    norms = {name: gradient.norm().item() for name, gradient in gradients.items()}
    settings = info["cases"][case]
    assert norms == pytest.approx(settings["grad_norms"], rel=2e-5)
    total = torch.tensor(list(norms.values()), dtype=torch.float64).norm().item()
    assert total == pytest.approx(settings["grad_norm_total"], rel=2e-5)
    prefix = f"{case}.grad."
    expected = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    assert len(expected) == 18
    for name, value in expected.items():
        assert ((gradients[name] - value).norm() / value.norm()).item() <= 5e-5, name


def test_the_loss_weighs_every_noise_level_alike():
    batch = Batch(torch.zeros(3, 16, 1, 2, 2), torch.zeros(3, 1, 4))
    noise = torch.ones_like(batch.latent)
    losses = flow_matching_losses(lambda *inputs: 3 * noise, batch, noise, torch.tensor([0.1, 0.5, 0.9]))
    assert losses.tolist() == [4, 4, 4]


def test_noise_level_one_is_noise_and_zero_is_clean():
    latent, noise = torch.randn(2, 2, 16, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    seen = []

    def model(latent, sigma, context, references):
        seen.append(latent)
        return latent

    flow_matching_loss(model, Batch(latent, torch.zeros(2, 1, 4)), noise, torch.tensor([1.0, 0.0]))
    assert torch.equal(seen[0], torch.stack([noise[0], latent[1]]))


def test_every_reference_changes_the_loss_of_its_own_sample_only(golden, tensors, dit):
    batch, noise, sigma = batch_of(golden, tensors, "ref3_b2")
    losses = flow_matching_losses(dit, batch, noise, sigma)
    for index, reference in enumerate(batch.references):
        changed = torch.cat([reference[:1], torch.zeros_like(reference[1:])])
        references = (*batch.references[:index], changed, *batch.references[index + 1 :])
        other = flow_matching_losses(dit, Batch(batch.latent, batch.context, references), noise, sigma)
        difference = (other - losses).abs()
        assert difference[0] < 1e-5 < 1e-3 < difference[1], index


def test_references_reach_the_model_clean(golden, tensors):
    batch, noise, sigma = batch_of(golden, tensors, "ref3_b2")
    seen = []

    def model(latent, sigma, context, references):
        seen.append(references)
        return latent

    flow_matching_loss(model, batch, noise, sigma)
    assert seen[0] is batch.references


def test_each_reference_has_a_latent_of_its_own_where_the_official_training_keeps_only_the_first(golden, info):
    assert info["shared_step_references"]["equals_first_image_only"], "SPEC 12.26"
    vae, clip = golden.vae(), golden.tensors("vae_cases")["refs3_as_video_notaligned.video"]
    images = [image for image in clip.split(1, dim=2)]
    references = encode_references(vae.encode, images, VideoSize(1, 16, 16))
    as_one_clip = vae.encode(clip)
    assert [list(reference.transpose(1, 2).shape) for reference in references] == [
        shape for shape in info["shared_step_references"]["list_mode_shapes"]
    ]
    assert torch.equal(as_one_clip, references[0])
    assert min((a - b).abs().max().item() for a, b in zip(references, references[1:], strict=False)) > 0.1


def test_the_shift_is_the_official_one(tensors, info):
    for row in info["shift_table"]:
        height, width = row["latent_hw"]
        expected = tensors[f"shift.after_{height}x{width}"]
        shifted = shift_sigma(tensors["shift.sigma_before"], (height, width))
        torch.testing.assert_close(shifted, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_the_cases_noise_levels_are_shifted_by_their_own_size(tensors, info, case):
    shifted = shift_sigma(tensors[f"{case}.sigma_raw"], info["cases"][case]["video_latent"][2:])
    torch.testing.assert_close(shifted, tensors[f"{case}.sigma"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1234])
def test_noise_levels_are_drawn_as_the_official_code_draws_them(tensors, seed):
    normal, sigma = (tensors[f"sigma_sampling.seed{seed}.{name}"] for name in ("normal", "sigma"))
    torch.testing.assert_close(torch.sigmoid(normal).flatten(), sigma, rtol=0, atol=1e-6)
    drawn = sample_sigma(len(sigma), torch.Generator().manual_seed(seed))
    torch.testing.assert_close(drawn, sigma, rtol=0, atol=1e-6)


def test_noise_levels_have_the_official_distribution(info):
    expected = info["sigma_sampling"]["empirical"]
    sigma = sample_sigma(expected["n"], torch.Generator().manual_seed(2))
    found = [sigma.mean(), sigma.std(), *(sigma.kthvalue(int(q * len(sigma))).values for q in (0.05, 0.5, 0.95))]
    for value, name in zip(found, ("mean", "std", "q05", "q50", "q95"), strict=True):
        assert value.item() == pytest.approx(expected[name], abs=3e-3), name


def test_captions_are_dropped_as_the_official_code_drops_them(info):
    dropout = info["text_dropout"]
    captions = [f"caption {index}" for index in range(len(dropout["dropped"]))]
    kept = drop_text(captions, 0.1, np.random.RandomState(dropout["numpy_seed"]))
    assert [caption == "" for caption in kept] == dropout["dropped"]
    assert all(new in ("", old) for new, old in zip(kept, captions, strict=True))


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_captions_are_dropped_at_the_rate_asked_for(rate):
    kept = drop_text(["a"] * 2000, rate, np.random.default_rng(0))
    assert kept.count("") / 2000 == pytest.approx(rate, abs=0.04)
