"""Loaders: a file, the embedded model, or any MODEL that is there already."""

from pathlib import Path

from comfy_api.latest import io
from PIL import Image
from safetensors import safe_open

from ..kaleido_core.checkpoints.load import DEMO_REFERENCES
from ..kaleido_core.checkpoints.sizes import read_identity
from ..kaleido_core.errors import CheckpointError
from . import comfy_adapter as host
from .pictures import to_image

CATEGORY = "Kaleido"
PICTURES = {path.stem.replace("_", " "): path.resolve() for path in sorted(DEMO_REFERENCES.glob("*.png"))}
CONVERT = "python -m kaleido_core convert FILE kaleido_14b.safetensors --dtype bf16"


class KaleidoLoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.node_schema(
            node_id="KaleidoLoadModel",
            display_name="Kaleido Load Model",
            category=CATEGORY,
            description="Loads a Kaleido transformer from models/diffusion_models, ready for references.",
            search_aliases=["kaleido", "load kaleido", "subject to video", "reference to video", "s2v", "unet loader"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=host.model_files(),
                    tooltip="A Kaleido file in ComfyUI/models/diffusion_models: bf16, fp16, fp8 or scaled fp8.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(host.WEIGHT_DTYPES),
                    default="default",
                    tooltip="default keeps what the file has. The fp8 types halve the memory of a bf16 file, at a "
                    "small loss.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For Kaleido References, LoRA loaders, samplers.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model_name: str, weight_dtype: str) -> io.NodeOutput:
        path = host.model_file(model_name)
        if warning := doubt(path):
            host.show_text(cls.hidden.unique_id, warning)
        return io.NodeOutput(host.make_kaleido(host.load_model(path, weight_dtype)))


def doubt(path: Path) -> str | None:
    """What speaks against a file being Kaleido. Raises ``CheckpointError`` for a file of the official script."""
    suffix = path.suffix.lower()
    if suffix in (".pt", ".pt2", ".pth", ".pkl", ".ckpt", ".bin"):
        raise CheckpointError(
            f"{path.name} is a PyTorch file; ComfyUI needs a .safetensors file in its own naming. "
            f"Convert it once, in this pack's folder: {CONVERT}"
        )
    if suffix not in (".safetensors", ".sft"):
        return None  # nothing in it tells
    with safe_open(path, "pt") as file:  # only what it says of itself: the host reads more kinds of weights than we do
        is_kaleido = read_identity(file.metadata() or {}, "dit").is_kaleido
    if is_kaleido or (is_kaleido is None and "kaleido" in f"{path.parent.name} {path.name}".lower()):
        return None
    if is_kaleido is None:
        return (
            f"{path.name} does not say that it is Kaleido; a plain Wan 2.1 file looks the same and ignores references. "
            f"If subjects do not come out, convert the official checkpoint: {CONVERT}"
        )
    return f"{path.name} says that it is not Kaleido: references will not be understood. Choose a Kaleido file."


class KaleidoDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.node_schema(
            node_id="KaleidoDemoModel",
            display_name="Kaleido Demo Model",
            category=CATEGORY,
            description="The small model inside this pack: emoji that slide, hop and spin, on any computer, without a "
            "download. 128x128 pixels, 17 frames, 20 steps, cfg 2, shift 3, reference_cfg 3.",
            search_aliases=["kaleido tiny", "kaleido demo", "test model"],
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The small transformer."),
                io.Clip.Output(display_name="clip", tooltip="Its text encoder, for CLIP Text Encode. English only."),
                io.Vae.Output(display_name="vae", tooltip="Its autoencoder, for references and VAE Decode."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        model, clip, vae = host.load_demo()
        return io.NodeOutput(host.make_kaleido(model), clip, vae)


class KaleidoDemoReferences(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.node_schema(
            node_id="KaleidoDemoReferences",
            display_name="Kaleido Demo Reference",
            category=CATEGORY,
            description="A reference image that the demo model has never seen. For your own pictures use Load Image.",
            search_aliases=["example image", "kaleido example"],
            inputs=[io.Combo.Input("picture", options=list(PICTURES), tooltip="Which one.")],
            outputs=[io.Image.Output(display_name="image", tooltip="256x256 pixels, on white.")],
        )

    @classmethod
    def execute(cls, picture: str) -> io.NodeOutput:
        return io.NodeOutput(to_image(Image.open(PICTURES[picture]).convert("RGB")))


class KaleidoApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.node_schema(
            node_id="KaleidoApply",
            display_name="Kaleido Apply",
            category=CATEGORY,
            description="Gives the reference frames of a Wan model Kaleido's positions. Only for graphs without "
            "Kaleido References; applying it twice changes nothing.",
            search_aliases=["kaleido patch", "r-rope", "gguf kaleido", "phantom to kaleido"],
            inputs=[io.Model.Input("model", tooltip="A Kaleido MODEL from any loader: GGUF, merge, checkpoint.")],
            outputs=[io.Model.Output(display_name="model", tooltip="The same model, with Kaleido's positions.")],
        )

    @classmethod
    def execute(cls, model: host.Model) -> io.NodeOutput:
        return io.NodeOutput(host.make_kaleido(model))
