"""The ComfyUI nodes: they translate between the host's types and kaleido_core, and compute nothing."""

from comfy_api.latest import ComfyExtension, io

from . import comfy_adapter as host
from .attention import KaleidoAttention
from .models import KaleidoApply, KaleidoDemoModel, KaleidoDemoReferences, KaleidoLoadModel
from .plan import KaleidoPlan
from .prompt import KaleidoPrompt
from .references import KaleidoReferences
from .sampling import KaleidoSampler, KaleidoSigmas
from .video import KaleidoSaveVideo

NODES: list[type[io.ComfyNode]] = [
    KaleidoLoadModel,
    KaleidoDemoModel,
    KaleidoDemoReferences,
    KaleidoApply,
    KaleidoAttention,
    KaleidoReferences,
    KaleidoPrompt,
    KaleidoSigmas,
    KaleidoSampler,
    KaleidoSaveVideo,
    KaleidoPlan,
]


class KaleidoExtension(ComfyExtension):
    async def on_load(self) -> None:
        host.list_demo_files()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
