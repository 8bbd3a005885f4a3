"""Will it fit?"""

from comfy_api.latest import io, ui

from ..kaleido_core.config import KALEIDO_14B
from ..kaleido_core.offloading.memory_plan import GIB, WEIGHT_BYTES, Machine, Work
from ..kaleido_core.offloading.native_plan import plan_native
from ..kaleido_core.shapes import MAX_REFERENCES, VideoSize
from . import comfy_adapter as host
from .models import CATEGORY
from .sampling import reference_cfg_input

FROM_MODEL = "as the model"


class KaleidoPlan(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.node_schema(
            node_id="KaleidoPlan",
            display_name="Kaleido Plan",
            category=CATEGORY,
            description="Tells what a clip needs of memory and time, and what to change if it does not fit. Nothing is "
            "computed.",
            search_aliases=["vram", "memory", "will it fit", "out of memory"],
            inputs=[
                io.Model.Input("model", optional=True, tooltip="Its sizes count; without it, Kaleido 14B."),
                io.Combo.Input(
                    "weights",
                    options=[FROM_MODEL, *WEIGHT_BYTES],
                    default=FROM_MODEL,
                    tooltip="What the weights are stored in; without a model, bf16.",
                ),
                io.Int.Input("width", default=896, min=16, max=4096, step=16, tooltip="Pixels."),
                io.Int.Input("height", default=512, min=16, max=4096, step=16, tooltip="Pixels."),
                io.Int.Input("length", default=81, min=1, max=1025, step=4, tooltip="Frames."),
                io.Int.Input("references", default=3, min=0, max=MAX_REFERENCES, tooltip="Reference images."),
                io.Int.Input("steps", default=50, min=1, max=1000, tooltip="Sampling steps."),
                io.Boolean.Input("guidance", default=True, tooltip="On unless cfg is 1: two forwards a step."),
                io.Float.Input("vram", default=0.0, min=0.0, max=1024.0, tooltip="GiB of the card; 0: this computer."),
                io.Float.Input(
                    "ram", default=0.0, min=0.0, max=8192.0, tooltip="GiB of main memory; 0: this computer."
                ),
                reference_cfg_input(
                    "As in Kaleido Sampler: other than 1, one more forward a step, without the references."
                ),
            ],
            outputs=[io.String.Output(display_name="plan", tooltip="The same text as on the node.")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        weights: str,
        width: int,
        height: int,
        length: int,
        references: int,
        steps: int,
        guidance: bool,
        vram: float,
        ram: float,
        model: host.Model | None = None,
        reference_cfg: float = 1.0,
    ) -> io.NodeOutput:
        config, weight_bytes = (KALEIDO_14B, WEIGHT_BYTES["bf16"]) if model is None else host.config_of(model)
        weight_bytes = WEIGHT_BYTES.get(weights, weight_bytes)
        forwards = steps * (2 if guidance else 1)
        bare = steps if reference_cfg != 1 and references else 0
        size = VideoSize(length, height, width)
        work = Work(size, references, forwards, config, weight_bytes, bare_forwards=bare)
        here = host.this_machine()
        machine = Machine(vram * GIB or here.vram, ram * GIB or here.ram)
        text = plan_native(work, machine).text
        return io.NodeOutput(text, ui=ui.PreviewText(text))
