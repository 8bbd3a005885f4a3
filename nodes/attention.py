"""Which kernel computes a model's attention."""

from comfy_api.latest import io

from ..kaleido_core.dit.attention import KERNELS
from . import comfy_adapter as host
from .models import CATEGORY


class KaleidoAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.node_schema(
            node_id="KaleidoAttention",
            display_name="Kaleido Attention",
            category=CATEGORY,
            description="Chooses the kernel that computes attention, more than half of a long clip's time. "
            "auto measures which one is the fastest on this card, and changes no result.",
            search_aliases=["sage attention", "flash attention", "cudnn", "attention backend", "faster kaleido"],
            inputs=[
                io.Model.Input("model", tooltip="A Kaleido model, before or behind other patches and LoRAs."),
                io.Combo.Input(
                    "kernel",
                    options=list(KERNELS),
                    default="auto",
                    tooltip="auto is the fastest exact one. sage computes in eight bits, with small errors, and needs "
                    "the package sageattention; math needs very much memory.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The same model, with that kernel.")],
        )

    @classmethod
    def execute(cls, model: host.Model, kernel: str) -> io.NodeOutput:
        return io.NodeOutput(host.with_attention(model, kernel))
