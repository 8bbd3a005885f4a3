import pytest
import torch

from kaleido_core import initial_noise, sigma_schedule
from kaleido_core.errors import ConfigError

TABLES = [(50, 7), (10, 7), (20, 7), (4, 7), (50, 1), (50, 3), (30, 5)]


@pytest.mark.parametrize(("steps", "shift"), TABLES)
def test_sigmas_are_the_official_ones(golden, steps, shift):
    sigmas = sigma_schedule(steps, shift)
    expected = golden.tensors("sampler")[f"sigmas_{steps}_shift{shift}"]
    torch.testing.assert_close(sigmas, expected, rtol=0, atol=1e-6)


def test_no_golden_table_is_left_out(golden):
    names = {name for name in golden.tensors("sampler") if name.startswith("sigmas_")}
    assert names == {f"sigmas_{steps}_shift{shift}" for steps, shift in TABLES}


@pytest.mark.parametrize(("steps", "shift"), [(1, 7), (3, 0.5), (50, 7)])
def test_sigmas_fall_from_exactly_one_to_exactly_zero(steps, shift):
    sigmas = sigma_schedule(steps, shift)
    assert sigmas.dtype == torch.float32 and len(sigmas) == steps + 1
    assert sigmas[0] == 1 and sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


@pytest.mark.parametrize(("steps", "shift"), [(0, 7), (-1, 7), (4, 0), (4, -2), (4, float("nan"))])
def test_schedules_that_lead_nowhere_are_refused(steps, shift):
    with pytest.raises(ConfigError, match="steps is at least 1 and shift is above 0"):
        sigma_schedule(steps, shift)


def test_noise_is_told_by_its_seed_alone():
    torch.manual_seed(5)
    noise = initial_noise((1, 16, 2, 4, 6), seed=3)
    torch.manual_seed(6)
    assert torch.equal(initial_noise((1, 16, 2, 4, 6), seed=3), noise)
    assert not torch.equal(initial_noise((1, 16, 2, 4, 6), seed=4), noise)
    assert noise.shape == (1, 16, 2, 4, 6) and noise.dtype == torch.float32 and noise.device.type == "cpu"


def test_noise_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    undisturbed = torch.rand(3)
    torch.manual_seed(5)
    initial_noise((4, 4), seed=3)
    assert torch.equal(torch.rand(3), undisturbed)


def test_noise_is_standard_normal():
    noise = initial_noise((100_000,), seed=0)
    assert abs(noise.mean().item()) < 0.01 and abs(noise.std().item() - 1) < 0.01


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_outside_the_generators_range_are_refused(seed):
    with pytest.raises(ConfigError, match="seeds are whole numbers"):
        initial_noise((1,), seed)
