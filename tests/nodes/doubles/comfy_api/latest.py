"""Node declarations: as much of them as the oldest supported release has."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class _Socket:
    kind: str

    def __init__(self, id: str | None = None, **options: Any):
        self.id, self.options = id, options

    def get_io_type(self) -> str:
        return self.kind.upper()


class Input(_Socket):
    pass


class Output(_Socket):
    pass


class _Template:
    def __init__(self, input: Input, names: list[str], min: int = 1):
        self.input, self.names, self.min = input, names, min


class _Names(type):
    """Every name of a type has an ``Input`` and an ``Output`` that know which type they are of."""

    def __getattr__(cls, name: str) -> Any:
        if not name[0].isupper():
            raise AttributeError(name)
        made = {side.__name__: type(side.__name__, (side,), {"kind": name}) for side in (Input, Output)}
        socket = SimpleNamespace(**made, TemplateNames=_Template)
        setattr(cls, name, socket)
        return socket


@dataclass
class Schema:
    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    hidden: list[Any] = field(default_factory=list)
    description: str = ""
    is_output_node: bool = False


class NodeOutput:
    def __init__(self, *args: Any, ui: Any = None):
        self.args, self.ui = args, ui


class ComfyNode:
    hidden = SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None)

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        return cls.define_schema()  # pyright: ignore[reportAttributeAccessIssue]


class io(metaclass=_Names):
    Schema, NodeOutput, ComfyNode, Input, Output = Schema, NodeOutput, ComfyNode, Input, Output
    Hidden = SimpleNamespace(unique_id="UNIQUE_ID", prompt="PROMPT", extra_pnginfo="EXTRA_PNGINFO")
    FolderType = SimpleNamespace(output="output")


class ui:
    class SavedResult(dict):
        def __init__(self, filename: str, subfolder: str, type: str):
            super().__init__(filename=filename, subfolder=subfolder, type=type)

    class PreviewVideo:
        def __init__(self, values: list[Any]):
            self.values = values

        def as_dict(self) -> dict[str, Any]:
            return {"images": self.values, "animated": (True,)}

    class SavedImages:
        def __init__(self, results: list[Any], is_animated: bool = False):
            self.results = results

        def as_dict(self) -> dict[str, Any]:
            return {"images": self.results}

    class PreviewText:
        def __init__(self, value: str):
            self.value = value

        def as_dict(self) -> dict[str, Any]:
            return {"text": (self.value,)}


class ComfyExtension:
    async def on_load(self) -> None: ...
