import copy

import pytest
import torch

from kaleido_core import Conditioning, sample, sigma_schedule
from kaleido_core.errors import ConfigError, ShapeError
from kaleido_core.sampling.guidance import guided_velocity, one_batch, two_passes

CASES = ("ref2_5steps", "dyn2_4steps")


class Stub:
    """A model whose velocity follows from its inputs, and which remembers its calls."""

    def __init__(self, dtype=torch.float32):
        self.dtype, self.calls = dtype, []

    def __call__(self, latent, sigma, context, references):
        self.calls.append((latent, sigma, context, references))
        shared = sum(reference.mean(dim=(1, 2, 3, 4), keepdim=True) for reference in references)
        return (latent * 0.1 + context.mean(dim=(1, 2)).view(-1, 1, 1, 1, 1) + shared).to(self.dtype)


def conditionings(reference_count=2, batch=1):
    generator = torch.Generator().manual_seed(0)
    references = tuple(torch.randn(1, 16, 1, 2, 2, generator=generator) for _ in range(reference_count))
    cond, uncond = torch.randn(2, batch, 5, 8, generator=generator)
    return Conditioning(cond, references), Conditioning(uncond, references)


NOISE = torch.randn(1, 16, 2, 2, 2, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def dit(golden):
    return golden.dit("dit_small")


@pytest.mark.parametrize("guidance", [two_passes, one_batch], ids=lambda guidance: guidance.__name__)
@pytest.mark.parametrize("case", CASES)
def test_every_step_and_both_branches_are_the_official_ones(golden, dit, case, guidance):
    tensors, settings = golden.tensors("sampler"), golden.info("sampler")["cases"][case]
    references = golden.references(tensors, case)
    states, cond, uncond = tensors[f"{case}.x_steps"].transpose(2, 3), [], []

    def recorded(*inputs):
        velocities = guidance(*inputs)
        cond.append(velocities[0])
        uncond.append(velocities[1])
        return velocities

    steps = []
    sigmas = sigma_schedule(settings["steps"], settings["shift"])
    torch.testing.assert_close(sigmas, tensors[f"{case}.sigmas"], rtol=0, atol=1e-6)
    latent = sample(
        dit,
        states[0],
        sigmas,
        Conditioning(tensors[f"{case}.context"], references),
        Conditioning(tensors[f"{case}.negative_context"], references),
        cfg=settings["cfg_scale"],
        on_step=steps.append,
        guidance=recorded,
    )
    assert [step.index for step in steps] == list(range(settings["steps"]))
    assert [step.sigma for step in steps] == sigmas[1:].tolist()
    assert torch.equal(steps[-1].latent, latent)
    for name, seen, expected in (
        ("latent", [step.latent for step in steps], states[1:]),
        ("cond", cond, tensors[f"{case}.v_cond"].transpose(2, 3)),
        ("uncond", uncond, tensors[f"{case}.v_uncond"].transpose(2, 3)),
    ):
        torch.testing.assert_close(torch.stack(seen), expected, rtol=0, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_guidance_and_the_solver_step_are_the_official_ones(golden):
    tensors = golden.tensors("sampler")
    for case in CASES:
        states, sigmas = tensors[f"{case}.x_steps"], tensors[f"{case}.sigmas"]
        velocity = guided_velocity(tensors[f"{case}.v_cond"], tensors[f"{case}.v_uncond"], 6.0)
        stepped = states[:-1] + sigmas.diff().view(-1, 1, 1, 1, 1, 1) * velocity
        torch.testing.assert_close(stepped, states[1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_two_passes_and_one_batch_are_the_same_numbers(batch):
    cond, uncond = conditionings(batch=batch)
    noise, sigmas = NOISE.repeat(batch, 1, 1, 1, 1), sigma_schedule(4, 3.0)
    separate, together = (sample(Stub(), noise, sigmas, cond, uncond, guidance=g) for g in (two_passes, one_batch))
    torch.testing.assert_close(separate, together, rtol=0, atol=1e-6)


def test_branches_of_different_sizes_need_two_passes():
    cond, uncond = conditionings()
    shorter = Conditioning(uncond.context[:, :3], uncond.references)
    with pytest.raises(ShapeError, match="use two_passes"):
        sample(Stub(), NOISE, sigma_schedule(1, 1.0), cond, shorter, guidance=one_batch)
    assert sample(Stub(), NOISE, sigma_schedule(1, 1.0), cond, shorter).shape == NOISE.shape


def test_without_guidance_the_model_runs_once_a_step():
    cond, uncond = conditionings()
    latents = []
    for other, cfg in ((None, 6.0), (uncond, 1.0)):
        model = Stub()
        latents.append(sample(model, NOISE, sigma_schedule(3, 7.0), cond, other, cfg=cfg))
        assert [call[2] is cond.context for call in model.calls] == [True] * 3
    assert torch.equal(*latents)


def test_both_branches_get_the_same_references_and_noise_level():
    cond, uncond = conditionings()
    model, sigmas = Stub(), sigma_schedule(2, 7.0)
    sample(model, NOISE, sigmas, cond, uncond)
    assert len(model.calls) == 4
    assert all(call[3] is cond.references for call in model.calls)
    assert [call[1].tolist() for call in model.calls] == [[sigma] for sigma in sigmas[:2].tolist() for _ in range(2)]


def test_the_state_is_float32_whatever_the_model_and_the_noise_are():
    cond, uncond = conditionings()
    model, steps = Stub(torch.bfloat16), []
    latent = sample(model, NOISE.bfloat16(), sigma_schedule(3, 7.0).double(), cond, uncond, on_step=steps.append)
    seen = [latent, *(step.latent for step in steps), *(call[0] for call in model.calls)]
    assert {state.dtype for state in seen} == {torch.float32}
    assert {call[1].dtype for call in model.calls} == {torch.float32}


def test_an_exception_in_on_step_stops_the_run():
    model = Stub()

    def stop(step):
        if step.index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(model, NOISE, sigma_schedule(5, 7.0), conditionings()[0], on_step=stop)
    assert len(model.calls) == 2


def test_an_unknown_solver_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="Unknown solver 'magic'; known are euler"):
        sample(Stub(), NOISE, sigma_schedule(1, 1.0), conditionings()[0], solver="magic")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("guidance", [two_passes, one_batch], ids=lambda guidance: guidance.__name__)
def test_inputs_are_left_as_they_were(guidance):
    given = (NOISE.clone(), sigma_schedule(3, 7.0), *conditionings())
    before = copy.deepcopy(given)
    sample(Stub(), *given, guidance=guidance)
    for now, then in zip(given[:2], before[:2], strict=True):
        assert torch.equal(now, then)
    for now, then in zip(given[2:], before[2:], strict=True):
        assert torch.equal(now.context, then.context)
        assert all(torch.equal(a, b) for a, b in zip(now.references, then.references, strict=True))


def test_more_references_than_trained_reach_the_model_only_with_leave():
    references, asked = conditionings(reference_count=3)[0].references * 2, []

    def model(latent, sigma, context, references, allow_extra_references=False):
        asked.append(allow_extra_references)
        return latent

    sample(model, NOISE, sigma_schedule(1, 1.0), Conditioning(torch.zeros(1, 2, 8), references, True))
    assert asked == [True]
