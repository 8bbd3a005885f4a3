"""Kaleido's own noise schedule, and a sampler with the settings it was released with."""

from comfy_api.latest import io

from ..kaleido_core.request import DEFAULTS_14B, DEFAULTS_TINY
from ..kaleido_core.sampling.schedule import sigma_schedule
from . import comfy_adapter as host
from .models import CATEGORY

CUSTOM = "custom"
PRESETS = {  # steps, cfg, shift, reference_cfg
    "kaleido 14B": (DEFAULTS_14B.steps, DEFAULTS_14B.cfg, DEFAULTS_14B.shift, DEFAULTS_14B.reference_cfg),
    "kaleido demo": (DEFAULTS_TINY.steps, DEFAULTS_TINY.cfg, DEFAULTS_TINY.shift, DEFAULTS_TINY.reference_cfg),
    "4-step LoRA": (4, 1.0, 5.0, 1.0),
}

PRESET_TOOLTIP = "; ".join(
    [
        f"{name}: {steps} steps, cfg {cfg:g}, shift {shift:g}, reference_cfg {reference_cfg:g}"
        for name, (steps, cfg, shift, reference_cfg) in PRESETS.items()
    ]
    + ["custom: the values below."]
)


# As in the core: what the text gives without references cannot differ from itself.
BARE_NEGATIVE = (
    "The negative has no references, so reference_cfg adds nothing: it pushes away from what the negative gives "
    "without them. Connect the negative of Kaleido References."
)

ONLY_CUSTOM = " Counts with preset custom only."


def steps_input(when: str = "") -> io.Int.Input:
    tooltip = f"More is finer and slower.{when}"
    return io.Int.Input("steps", default=DEFAULTS_14B.steps, min=1, max=1000, tooltip=tooltip)


def shift_input(when: str = "") -> io.Float.Input:
    tooltip = f"Above 1 more steps go to the layout, below 1 to the details.{when}"
    return io.Float.Input(
        "shift",
        default=DEFAULTS_14B.shift,
        min=0.01,
        max=100.0,
        step=0.1,
        round=0.001,
        tooltip=tooltip,
    )


def reference_cfg_input(tooltip: str) -> io.Float.Input:
    return io.Float.Input(
        "reference_cfg",
        default=1.0,
        min=0.0,
        max=20.0,
        step=0.1,
        round=0.001,
        optional=True,  # graphs saved before it was there go on working
        tooltip=tooltip,
    )


class KaleidoSigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.node_schema(
            node_id="KaleidoSigmas",
            display_name="Kaleido Sigmas",
            category=CATEGORY,
            description="The released model's noise schedule, for SamplerCustomAdvanced.",
            search_aliases=["kaleido scheduler", "sigmas", "flow shift"],
            inputs=[steps_input(), shift_input()],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="steps + 1 values from 1 to 0.")],
        )

    @classmethod
    def execute(cls, steps: int, shift: float) -> io.NodeOutput:
        return io.NodeOutput(sigma_schedule(steps, shift))


class KaleidoSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.node_schema(
            node_id="KaleidoSampler",
            display_name="Kaleido Sampler",
            category=CATEGORY,
            description="Samples as the official script does: Euler along Kaleido's schedule. For anything else "
            "use the stock samplers.",
            search_aliases=["kaleido ksampler", "sampler"],
            inputs=[
                io.Model.Input("model", tooltip="From Kaleido References."),
                io.Conditioning.Input("positive", tooltip="From Kaleido References."),
                io.Conditioning.Input("negative", tooltip="From Kaleido References; not looked at when cfg is 1."),
                io.Latent.Input("latent", tooltip="From Kaleido References."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The same seed gives the same clip.",
                ),
                io.Combo.Input(
                    "preset",
                    options=[*PRESETS, CUSTOM],
                    default="kaleido 14B",
                    tooltip=PRESET_TOOLTIP,
                ),
                steps_input(ONLY_CUSTOM),
                io.Float.Input(
                    "cfg",
                    default=DEFAULTS_14B.cfg,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.001,
                    tooltip=f"How strictly the prompt is followed; 1 is off and twice as fast.{ONLY_CUSTOM}",
                ),
                shift_input(ONLY_CUSTOM),
                reference_cfg_input(
                    "Guidance by the references: above 1 the subjects look more like them, and a step takes one more "
                    f"call of the model; 1 is off, as released.{ONLY_CUSTOM}"
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="For VAE Decode.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: host.Model,
        positive: host.Conditioning,
        negative: host.Conditioning,
        latent: host.Latent,
        seed: int,
        preset: str,
        steps: int,
        cfg: float,
        shift: float,
        reference_cfg: float = 1.0,
    ) -> io.NodeOutput:
        steps, cfg, shift, reference_cfg = PRESETS.get(preset, (steps, cfg, shift, reference_cfg))
        sigmas = sigma_schedule(steps, shift)
        if 1 not in (cfg, reference_cfg) and host.has_references(positive) and not host.has_references(negative):
            host.show_text(cls.hidden.unique_id, BARE_NEGATIVE)
        latent = host.sample_euler(model, positive, negative, latent, seed, sigmas, cfg, reference_cfg)
        return io.NodeOutput(latent)
