"""ComfyUI's door into the pack. Nothing heavy is imported before the host asks for the nodes."""

WEB_DIRECTORY = "./nodes/web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint():
    from .nodes import KaleidoExtension

    return KaleidoExtension()
