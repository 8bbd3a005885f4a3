"""Reference images into the graph: what the model sees of them, and the latent they go with."""

from collections.abc import Mapping

import numpy as np
from comfy_api.latest import io
from torch import Tensor

from ..kaleido_core.contact_sheet import draw_contact_sheet, reference_cells
from ..kaleido_core.dit.rope import REFERENCE_OFFSET
from ..kaleido_core.errors import DataError
from ..kaleido_core.references import FITS, Fit, encode_references, prepare_reference
from ..kaleido_core.shapes import MAX_REFERENCES, PIXEL_STEP, VideoSize, check_reference_count
from . import comfy_adapter as host
from .models import CATEGORY
from .pictures import to_image, to_picture

ROLES = ("subject", "face", "object", "scene")
KEEPS_BACKGROUND = "scene"
SIZES = {
    "landscape 896x512": (512, 896),
    "portrait 512x896": (896, 512),
    "square 672x672": (672, 672),
    "small 480x272": (272, 480),
    "demo 128x128": (128, 128),
}
CUSTOM = "custom"
SOCKETS = 8
LARGEST_SIDE = REFERENCE_OFFSET * PIXEL_STEP  # above, positions of the video reach those of the references
MARKS = ("subject", "background")
ADVANCED = {"advanced": True}  # folded away by pages that know how


def socket_names(kind: str) -> list[str]:
    return [f"{kind}{index + 1}" for index in range(SOCKETS)]


def reference_inputs() -> list[io.Input]:
    image = io.Image.Input("image", tooltip="One subject. A batch of images counts as several references.")
    mask = io.Mask.Input("mask", tooltip="Mask of the reference with the same number.")
    return [
        io.Autogrow.Input(
            "references",
            template=io.Autogrow.TemplateNames(image, socket_names("image"), host.FEWEST_SOCKETS),
            tooltip="A socket more appears as you connect. The prompt names subjects in this order.",
        ),
        io.Autogrow.Input(
            "masks",
            template=io.Autogrow.TemplateNames(mask, socket_names("mask"), host.FEWEST_SOCKETS),
            tooltip="Optional: what lies outside of a subject's mask becomes white. See "
            "mask_marks, and contact_sheet for what came of it.",
        ),
        *(
            io.Combo.Input(
                f"role{i + 1}",
                options=list(ROLES),
                default=ROLES[0],
                tooltip=f"What image {i + 1} is. A scene keeps its background; others, and images from the fourth on, "
                "lose it where there is a mask.",
                extra_dict=ADVANCED,
            )
            for i in range(MAX_REFERENCES)
        ),
        io.Combo.Input(
            "fit",
            options=list(FITS),
            default="letterbox",
            tooltip="letterbox shows the whole image on white, as in training; crop fills the frame.",
        ),
        io.Combo.Input(
            "mask_marks",
            options=list(MARKS),
            default=MARKS[0],
            tooltip="What is white in the masks: the subject, as segmentation nodes and the mask editor have it; or "
            "the background, as Load Image has it for a picture with a transparent background.",
        ),
        io.Boolean.Input(
            "allow_more",
            default=False,
            tooltip="Take more than three references. The model was never trained for that.",
            extra_dict=ADVANCED,
        ),
    ]


def size_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "size",
            options=[*SIZES, CUSTOM],
            default="landscape 896x512",
            tooltip="896x512 is what the 14B model was made for. custom takes width and height.",
        ),
        io.Int.Input("width", default=896, min=16, max=4096, step=16, tooltip="Pixels, with size custom."),
        io.Int.Input("height", default=512, min=16, max=4096, step=16, tooltip="Pixels, with size custom."),
        io.Int.Input("length", default=81, min=1, max=1025, step=4, tooltip="Frames: 1, 5, 9, ... 81 is 5 s."),
        io.Int.Input(
            "batch_size",
            default=1,
            min=1,
            max=64,
            tooltip="How many clips, each with other noise. VAE Decode joins them one after another.",
        ),
    ]


class KaleidoReferences(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.node_schema(
            node_id="KaleidoReferences",
            display_name="Kaleido References",
            category=CATEGORY,
            description="Puts one to three reference images beside the prompt, and makes the empty latent to sample. "
            "Without images it is plain text to video.",
            search_aliases=["reference to video", "subject reference", "phantom", "kaleido", "s2v", "multi subject"],
            inputs=[
                io.Model.Input("model", tooltip="A Kaleido model from any loader."),
                io.Conditioning.Input("positive", tooltip="What happens in the clip."),
                io.Conditioning.Input("negative", tooltip="What to keep away from."),
                io.Vae.Input("vae", tooltip="The Wan 2.1 VAE, or the demo model's own."),
                *size_inputs(),
                *reference_inputs(),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="With Kaleido's positions for the references."),
                io.Conditioning.Output(display_name="positive", tooltip="With the references."),
                io.Conditioning.Output(display_name="negative", tooltip="With the references."),
                io.Latent.Output(display_name="latent", tooltip="Empty, of the size above."),
                io.Image.Output(display_name="contact_sheet", tooltip="The references as the model sees them."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: host.Model,
        positive: host.Conditioning,
        negative: host.Conditioning,
        vae: object,
        size: str,
        width: int,
        height: int,
        length: int,
        batch_size: int,
        fit: Fit,
        mask_marks: str = MARKS[0],
        allow_more: bool = False,
        role1: str = ROLES[0],
        role2: str = ROLES[0],
        role3: str = ROLES[0],
        references: Mapping[str, Tensor | None] | None = None,
        masks: Mapping[str, Tensor | None] | None = None,
    ) -> io.NodeOutput:
        height, width = SIZES.get(size, (height, width))
        video = VideoSize(length, height, width)
        if max(height, width) > LARGEST_SIDE:
            host.show_text(
                cls.hidden.unique_id, f"Above {LARGEST_SIDE} pixels a side, subjects may bleed into the video."
            )
        pictures = gather(references or {}, masks or {}, (role1, role2, role3), mask_marks)
        check_reference_count(len(pictures), allow_more)
        views = [prepare_reference(picture, video, fit, keep) for picture, keep in pictures]
        latents = encode_references(host.pixel_encoder(vae), views, video)
        sheet = draw_contact_sheet([reference_cells([np.asarray(view) for view in views])], describe(video, len(views)))
        return io.NodeOutput(
            host.make_kaleido(model),
            host.with_references(positive, latents),
            host.with_references(negative, latents),
            host.empty_latent(video.latent_shape(batch=batch_size)),
            to_image(sheet),
        )


Reference = tuple[np.ndarray, np.ndarray | None]  # picture uint8 [H W 3], and what to keep of it, 0..1 [h w]


def gather(
    references: Mapping[str, Tensor | None], masks: Mapping[str, Tensor | None], roles: tuple[str, ...], marks: str
) -> list[Reference]:
    """All connected images in the order of their sockets; the images of a batch follow one another."""
    found: list[Reference] = []
    for index, names in enumerate(zip(socket_names("image"), socket_names("mask"), strict=True)):
        images, mask = references.get(names[0]), masks.get(names[1])
        if images is None:
            if mask is not None:
                raise DataError(
                    f"mask{index + 1} is connected and image{index + 1} is not; a mask belongs to the image of its "
                    "number. Connect the image or take the mask away."
                )
            continue
        role = roles[index] if index < len(roles) else ROLES[0]
        found += [(to_picture(image), keep_of(mask, number, role, marks)) for number, image in enumerate(images)]
    return found


def keep_of(mask: Tensor | None, number: int, role: str, marks: str) -> np.ndarray | None:
    """The part of a reference that stays, ``[h w]``; None: all of it."""
    if mask is None or role == KEEPS_BACKGROUND:
        return None
    masks = mask.reshape(-1, *mask.shape[-2:])  # some packs give [H W] or [B 1 H W]
    if not len(masks):
        raise DataError("A mask holds no picture; it needs at least one. Take it away or connect another.")
    keep = masks[min(number, len(masks) - 1)].cpu().float().numpy()
    keep = keep if marks == "subject" else 1 - keep
    if keep.max() < 0.5:
        raise DataError(
            f"A mask of {keep.shape[1]}x{keep.shape[0]} pixels keeps nothing of its reference; it must mark the "
            f"{marks}. Set mask_marks the other way round, or take the mask away."
        )
    return keep


def describe(video: VideoSize, count: int) -> str:
    what = f"{count} references" if count != 1 else "1 reference"
    return f"{what}, {video.width}x{video.height}, {video.frames} frames" + ("" if count else ": plain text to video")
