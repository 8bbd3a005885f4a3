import pytest
import torch
from torch import nn

from kaleido_core import Conditioning, sample, sigma_schedule
from kaleido_core.errors import ConfigError
from kaleido_core.sampling.guidance import guided_between, references_guided, reused_below
from kaleido_core.sampling.speed import SPEEDS, Speed, branches_of, count_forwards, sample_at, speed_of
from kaleido_core.sampling.step_cache import step_cache

from .test_step_cache import COND, LATENT, UNCOND

SIGMAS = sigma_schedule(8, 3.0)


class Counter:
    """A model whose branches differ by a constant; remembers at which sigma which of them ran."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float]] = []

    def __call__(self, latent, sigma, context, references):
        name = "cond" if context is COND.context else "uncond"
        self.seen.append((name, float(sigma[0])))
        return torch.full_like(latent, 1.0 if name == "cond" else 0.25)


class Branches(nn.Module):
    """A model whose three branches are constants; remembers which of them ran."""

    def __init__(self, cond: float = 1.0, uncond: float = 0.25, bare: float = -0.5) -> None:
        super().__init__()
        self.values = {"cond": cond, "uncond": uncond, "bare": bare}
        self.ran: list[str] = []
        self.contexts: list[torch.Tensor] = []

    def forward(self, latent, sigma, context, references):
        name = "bare" if not references else "cond" if context is COND.context else "uncond"
        self.ran.append(name)
        self.contexts.append(context)
        return torch.full_like(latent, self.values[name])


def levels(model: Counter, name: str) -> list[float]:
    return [sigma for which, sigma in model.seen if which == name]


def test_guidance_runs_only_inside_its_interval():
    model = Counter()
    sample(model, LATENT, SIGMAS, COND, UNCOND, guidance=guided_between(0.5, 0.9))
    assert levels(model, "cond") == SIGMAS[:-1].tolist()
    assert levels(model, "uncond") == [s for s in SIGMAS.tolist() if 0.5 <= s <= 0.9] != []


def test_a_difference_taken_again_is_exact_where_it_does_not_change():
    model, plain = Counter(), Counter()
    reused = sample(model, LATENT, SIGMAS, COND, UNCOND, guidance=reused_below(0.6))
    assert torch.allclose(reused, sample(plain, LATENT, SIGMAS, COND, UNCOND), atol=1e-6)
    assert min(levels(model, "uncond")) >= 0.6 and len(levels(model, "uncond")) < len(levels(plain, "uncond"))


def test_nothing_is_taken_again_before_there_is_something():
    model = Counter()
    sample(model, LATENT, SIGMAS, COND, UNCOND, guidance=reused_below(2.0))
    assert len(levels(model, "uncond")) == 1


def test_exact_is_the_sampler_itself(dit):
    assert torch.equal(
        sample_at(Speed(), dit, LATENT, SIGMAS, COND, UNCOND, 2.0), sample(dit, LATENT, SIGMAS, COND, UNCOND, 2.0)
    )


def test_faster_speeds_run_fewer_blocks(dit):
    runs = []
    for speed in map(speed_of, ("exact", "balanced", "fast")):
        calls: list[int] = []
        hook = dit.blocks[2].register_forward_hook(lambda *_, calls=calls: calls.append(1))
        sample_at(speed, dit, LATENT, sigma_schedule(speed.steps_of(8), 3.0), COND, UNCOND, 2.0)
        hook.remove()
        runs.append(len(calls))
    assert runs[0] == 2 * 8 and runs[0] > runs[1] > runs[2]
    assert SPEEDS["exact"] == Speed()


def test_balanced_takes_at_most_the_1_8th_part_of_the_usual_steps():
    balanced = SPEEDS["balanced"]
    assert [balanced.steps_of(steps) for steps in (50, 20, 4, 1)] == [27, 11, 2, 1]
    assert min(50 / balanced.steps_of(50), 20 / balanced.steps_of(20)) > 1.8


def test_an_unknown_speed_is_refused():
    with pytest.raises(ConfigError, match="exact, balanced, fast"):
        speed_of("ludicrous")


def test_references_guide_away_from_the_text_without_them():
    made = sample_at(Speed(), Branches(), LATENT, SIGMAS, COND, UNCOND, 2.0, 3.0)
    velocity = -0.5 + 3.0 * (0.25 + 0.5) + 2.0 * (1.0 - 0.25)
    assert torch.allclose(made, LATENT - velocity, atol=1e-5)


@pytest.mark.parametrize(("uncond", "cfg"), [(None, 2.0), (UNCOND, 1.0)])
def test_without_guidance_by_the_text_references_guide_the_cond_branch(uncond, cfg):
    made = sample_at(Speed(), Branches(bare=0.5), LATENT, SIGMAS, COND, uncond, cfg, 3.0)
    assert torch.allclose(made, LATENT - (0.5 + 3.0 * 0.5), atol=1e-5)


def test_without_references_or_at_1_there_is_no_third_branch():
    no_references = Conditioning(COND.context), Conditioning(UNCOND.context)
    for conds, scale in ((no_references, 3.0), ((COND, UNCOND), 1.0)):
        model = Branches()
        sample_at(Speed(), model, LATENT, SIGMAS, *conds, 2.0, scale)
        assert len(model.ran) == 2 * (len(SIGMAS) - 1)


@pytest.mark.parametrize("speed", [Speed(), Speed(reused_below=0.6), Speed(guided_to=0.3, reused_below=0.8)])
@pytest.mark.parametrize(("cfg", "reference_cfg"), [(2.0, 3.0), (2.0, 1.0), (1.0, 3.0), (1.0, 1.0)])
@pytest.mark.parametrize("references", [2, 0])
def test_forwards_are_counted_as_they_are_made(speed: Speed, cfg: float, reference_cfg: float, references: int):
    model = Branches()
    cond, uncond = (Conditioning(one.context, one.references[:references]) for one in (COND, UNCOND))
    sample_at(speed, model, LATENT, SIGMAS, cond, uncond, cfg, reference_cfg)
    bare = model.ran.count("bare") if references else 0
    assert count_forwards(speed, SIGMAS, cfg, reference_cfg, references) == (len(model.ran) - bare, bare)
    branches = {(name, id(context)) for name, context in zip(model.ran, model.contexts, strict=True)}
    assert branches_of(cfg, reference_cfg, references) == len(branches)


def test_a_push_of_the_references_is_taken_again_with_that_of_the_text():
    model = Branches()
    guidance = references_guided(3.0, reused_below(0.6), reused_below=0.6)
    made = sample(model, LATENT, SIGMAS, COND, UNCOND, 2.0, guidance=guidance)
    assert torch.allclose(made, LATENT - 3.25, atol=1e-5)
    assert model.ran.count("cond") == 8 and model.ran.count("bare") == model.ran.count("uncond") < 8


def test_the_step_cache_keeps_three_branches_apart(dit):
    with step_cache(dit, 5.0) as report:
        sample_at(Speed(), dit, LATENT, SIGMAS, COND, UNCOND, 2.0, 3.0)
    assert report.whole == 3
