import pytest
import torch

from kaleido_core import Conditioning, KaleidoDiT, sample, sigma_schedule
from kaleido_core.errors import ConfigError
from kaleido_core.offloading.memory_plan import CACHED_COPIES
from kaleido_core.sampling import step_cache as module
from kaleido_core.sampling.guidance import one_batch
from kaleido_core.sampling.step_cache import step_cache

from ..peak import Peak

LATENT = torch.randn(1, 16, 2, 4, 4, generator=torch.manual_seed(0))
REFERENCES = tuple(torch.randn(2, 1, 16, 1, 4, 4, generator=torch.manual_seed(1)))
COND, UNCOND = (Conditioning(torch.randn(1, 6, 32, generator=torch.manual_seed(n)), REFERENCES) for n in (2, 3))
STEPS = 8


def run(dit: KaleidoDiT, cond: Conditioning = COND) -> torch.Tensor:
    return sample(dit, LATENT, sigma_schedule(STEPS, 3.0), cond, UNCOND, cfg=2.0)


def test_at_threshold_0_nothing_is_left_out_and_no_bit_changes(dit):
    exact = run(dit)
    with step_cache(dit, 0) as report:
        assert torch.equal(run(dit), exact)
    assert (report.whole, report.saved) == (2 * STEPS, 0)


def test_a_higher_threshold_leaves_out_more_and_strays_further(dit):
    exact, saved, errors = run(dit), [], []
    for threshold in (0.02, 0.2, 5.0):
        with step_cache(dit, threshold) as report:
            errors.append((run(dit) - exact).norm().item())
        saved.append(report.saved)
    assert saved == sorted(saved) and saved[-1] == 2 * STEPS - 2 and saved[0] < saved[1]
    assert errors == sorted(errors) and 0 < errors[1] < exact.norm()


def test_each_branch_remembers_its_own(dit):
    """With one memory for both, the branches would be taken for steps of one another."""
    with step_cache(dit, 5.0):
        run(dit)
        cond, uncond = dit.blocks[0].cache.memories.values()
    assert cond.context is COND.context and uncond.context is UNCOND.context
    assert not torch.equal(cond.others, uncond.others)


def test_references_count_for_nothing_in_the_distance(dit):
    """They hardly change from step to step: counted in, they would hide that the video does."""
    with step_cache(dit, 0.2):
        dit(LATENT, torch.ones(1), COND.context, REFERENCES)
        (memory,) = dit.blocks[0].cache.memories.values()
    assert memory.first.shape[1] == memory.others.shape[1] == 8, "2 frames of 2 x 2 patches"


def test_afterwards_the_model_is_as_it_was_even_after_an_error(dit):
    blocks, exact = dit.blocks, run(dit)
    with pytest.raises(RuntimeError, match="stop"), step_cache(dit, 1.0):
        dit(LATENT, torch.ones(1), COND.context)
        raise RuntimeError("stop")
    assert dit.blocks is blocks and not dit._forward_pre_hooks and torch.equal(run(dit), exact)


def test_references_given_by_name_tell_branches_apart_too(dit):
    with step_cache(dit, 5.0) as report:
        dit(LATENT, torch.ones(1), COND.context, references=REFERENCES)
        dit(latent=LATENT, sigma=torch.ones(1), context=COND.context)
    assert (report.whole, report.saved) == (2, 0)


def test_branches_joined_anew_at_every_step_are_refused(dit):
    with step_cache(dit, 0.1), pytest.raises(ConfigError, match="two_passes, not one_batch"):
        sample(dit, LATENT, sigma_schedule(STEPS, 3.0), COND, UNCOND, cfg=2.0, guidance=one_batch)


def test_a_forward_that_broke_off_leaves_no_memory(dit):
    with step_cache(dit, 0.0):
        dit(LATENT, torch.ones(1), COND.context, REFERENCES)
        (memory,) = (memories := dit.blocks[0].cache.memories).values()
        assert memory.context is COND.context
        dit.blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            dit(LATENT, torch.ones(1), COND.context, REFERENCES)
        assert not memories


@torch.no_grad()
@pytest.mark.parametrize("branches", [1, 2, 3])
def test_each_branch_takes_two_copies_of_the_video_tokens_and_no_more(dit, branches, monkeypatch):
    """Also where blocks run whole although there is a memory already."""
    monkeypatch.setattr(module, "_distance", lambda ours, theirs: 1.0)
    latent, references = torch.randn(1, 16, 6, 16, 16), [torch.randn(1, 16, 1, 16, 16)] * 3
    conds = [(COND.context, references), (UNCOND.context, references), (UNCOND.context, [])][:branches]
    with Peak() as exact:
        dit(latent, torch.ones(1), *conds[0])
    with Peak() as cached, step_cache(dit, 0.1) as report:
        for cond in conds * 2:
            dit(latent, torch.ones(1), *cond)
    video = 6 * 8 * 8 * 64 * 4  # bytes of its tokens
    assert report.whole == 2 * branches and cached.bytes - exact.bytes == CACHED_COPIES * branches * video


def test_another_size_starts_anew(dit):
    with step_cache(dit, 5.0) as report:
        dit(LATENT, torch.ones(1), COND.context)
        dit(LATENT[:, :, :1], torch.ones(1), COND.context)
    assert report.saved == 0


@pytest.mark.parametrize("threshold", [-0.1, 10.0, float("nan")])
def test_a_threshold_that_means_nothing_is_refused(dit, threshold):
    with pytest.raises(ConfigError, match=r"0\.\.10"), step_cache(dit, threshold):
        pass
