"""How fast, how large: every part of a run beside its limit, and beside ComfyUI's own. ``__main__.py`` is the door."""
