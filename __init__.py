"""ComfyUI's door into the pack. Nothing heavy is imported here: ComfyUI times it."""

__all__: list[str] = []
