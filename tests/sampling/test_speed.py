import pytest
import torch

from kaleido_core import sample, sigma_schedule
from kaleido_core.errors import ConfigError
from kaleido_core.sampling.guidance import guided_between, reused_below
from kaleido_core.sampling.speed import SPEEDS, Speed, sample_at, speed_of

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
    for name in ("exact", "balanced", "fast"):
        calls: list[int] = []
        hook = dit.blocks[2].register_forward_hook(lambda *_, calls=calls: calls.append(1))
        sample_at(speed_of(name), dit, LATENT, SIGMAS, COND, UNCOND, 2.0)
        hook.remove()
        runs.append(len(calls))
    assert runs[0] == 2 * 8 and runs[0] > runs[1] > runs[2]
    assert SPEEDS["exact"] == Speed()


def test_an_unknown_speed_is_refused():
    with pytest.raises(ConfigError, match="exact, balanced, fast"):
        speed_of("ludicrous")
