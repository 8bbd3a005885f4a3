"""Named trades of likeness for time: "exact" is the default everywhere; the README holds what the others lose."""

from contextlib import nullcontext
from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import ConfigError
from ..shapes import Conditioning
from .guidance import guided_between, references_guided, reused_below, two_passes
from .sampler import OnStep, sample
from .step_cache import step_cache


@dataclass(frozen=True)
class Speed:
    """``steps``: the share of the steps that is taken. ``drift`` of the step cache; guidance from sigma ``guided_to``
    up, and taken again below ``reused_below``.

    ``whole``: the share of the forwards that the step cache ran whole for kaleido-tiny, which plans go by.
    """

    steps: float = 1.0
    drift: float = 0.0
    guided_to: float = 0.0
    reused_below: float = 0.0
    whole: float = 1.0

    def steps_of(self, steps: int) -> int:
        """How many steps are taken where ``steps`` are asked for."""
        return max(1, int(self.steps * steps + 1e-6))


SPEEDS = {
    "exact": Speed(),
    "balanced": Speed(steps=0.55),
    "fast": Speed(steps=0.3),
    "cached": Speed(drift=0.1, whole=0.6),
}


def speed_of(name: str) -> Speed:
    """The ``Speed`` of that name. Raises ``ConfigError`` for another."""
    if name not in SPEEDS:
        raise ConfigError(f"speed {name!r} is unknown; known are {', '.join(SPEEDS)}. Only exact changes nothing.")
    return SPEEDS[name]


def sample_at(
    speed: Speed,
    dit: nn.Module,
    noise: Tensor,
    sigmas: Tensor,
    cond: Conditioning,
    uncond: Conditioning | None = None,
    cfg: float = 6.0,
    reference_cfg: float = 1.0,
    on_step: OnStep | None = None,
) -> Tensor:
    """``sample`` with the shortcuts of ``speed`` and ``references_guided``; with ``Speed()`` and 1 the very same.

    ``sigmas`` are those of ``speed.steps_of`` the steps that are asked for.
    Without guidance by the text (``cfg=1`` or no ``uncond``) the references guide the cond branch.
    """
    guidance = reused_below(speed.reused_below) if speed.reused_below else two_passes
    if reference_cfg != 1 and cond.references:
        if uncond is None or cfg == 1:
            uncond, cfg = Conditioning(cond.context), reference_cfg
        else:
            guidance = references_guided(reference_cfg, guidance, speed.reused_below)
    if speed.guided_to:
        guidance = guided_between(speed.guided_to, 1.0, guidance)
    with step_cache(dit, speed.drift) if speed.drift else nullcontext():
        return sample(dit, noise, sigmas, cond, uncond, cfg, on_step=on_step, guidance=guidance)


def branches_of(cfg: float, reference_cfg: float, references: int) -> int:
    """How many branches of guidance ``sample_at`` runs, given an ``uncond``."""
    return 1 + (cfg != 1) + (reference_cfg != 1 and references > 0)


def count_forwards(speed: Speed, sigmas: Tensor, cfg: float, reference_cfg: float, references: int) -> tuple[int, int]:
    """Calls of the model that ``sample_at`` makes, given an ``uncond``: with the references, and without them."""
    levels = sigmas[:-1].tolist()
    anew = [level for level in levels if level >= speed.reused_below or level == levels[0]]
    guided = sum(level >= speed.guided_to for level in anew)
    by_references = reference_cfg != 1 and references > 0
    return len(levels) + guided * (cfg != 1), guided * by_references
