"""Clips to files that remember the graph."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ..kaleido_core.errors import KaleidoError
from ..kaleido_core.generate import to_frames
from ..kaleido_core.video import FORMATS, QUALITY, encode_video
from . import comfy_adapter as host
from .graph_record import record_of_graph
from .models import CATEGORY
from .pictures import from_images

logger = logging.getLogger("kaleido.nodes")


class KaleidoSaveVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.node_schema(
            node_id="KaleidoSaveVideo",
            display_name="Kaleido Save Video",
            category=CATEGORY,
            description="Writes a clip into the output folder. Drop the mp4, webm or webp onto the page to get the "
            "graph back; the .json beside it repeats the clip on the command line.",
            search_aliases=["save mp4", "export video", "save gif", "save webm", "video combine"],
            inputs=[
                io.Image.Input("images", tooltip="The frames of one clip."),
                io.Float.Input(
                    "fps", default=16.0, min=0.1, max=240.0, step=0.1, round=0.001, tooltip="Kaleido's own is 16."
                ),
                io.Combo.Input("format", options=list(FORMATS), default="mp4 h264", tooltip="h264 plays everywhere."),
                io.Int.Input("quality", default=QUALITY, min=1, max=100, tooltip="Of the picture; a GIF has one only."),
                io.String.Input("filename_prefix", default="kaleido/clip", tooltip="Below the output folder."),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Tensor, fps: float, format: str, quality: int, filename_prefix: str) -> io.NodeOutput:
        height, width = images.shape[1:3]
        folder, subfolder, stem, counter = host.output_place(filename_prefix, width, height)
        path = folder / f"{stem}_{counter:05}_{FORMATS[format].suffix}"
        tags, record = {}, None
        if host.may_save_workflow():
            record = describe_clip(cls.hidden.prompt, cls.hidden.unique_id, fps, path)
            given = {"comment": record, "prompt": cls.hidden.prompt, **(cls.hidden.extra_pnginfo or {})}
            tags = {name: json.dumps(value) for name, value in given.items() if value is not None}
        encode_video(to_frames(from_images(images)), path, fps, tags, format, quality)
        if record is not None:
            path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        # The page takes whatever is animated for a video, unless it is a WebP; a GIF it can show as a picture.
        preview = ui.SavedImages if path.suffix == ".gif" else ui.PreviewVideo
        return io.NodeOutput(ui=preview([ui.SavedResult(path.name, subfolder, io.FolderType.output)]))


def describe_clip(graph: Any, save_id: str, fps: float, path: Any) -> Mapping[str, Any]:
    """The sidecar: a record that ``--replay`` reads, or why there is none."""
    try:
        return asdict(record_of_graph(graph or {}, save_id, fps, path.parent))
    except KaleidoError as reason:
        words = str(reason)
    except Exception as reason:  # a graph holds what other packs put there; no clip is lost to that
        logger.exception("No record of %s", path.name)
        words = f"{type(reason).__name__} while reading the graph"  # its own words may name folders
    return {"made with": "ComfyUI", "not repeatable on the command line because": words}
