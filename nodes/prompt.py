"""Prompts with tags."""

from comfy_api.latest import io

from ..kaleido_core.shapes import MAX_REFERENCES
from ..kaleido_core.text.prompt_tags import TEMPLATES, Template, expand_tags
from . import comfy_adapter as host
from .models import CATEGORY
from .references import SOCKETS

NAMES = tuple(f"name{index + 1}" for index in range(MAX_REFERENCES))


def names_of(given: tuple[str, ...], count: int) -> tuple[str, ...]:
    """A name for each of ``count`` references; those beyond the widgets have none."""
    return (*given, *[""] * SOCKETS)[:count]


class KaleidoPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.node_schema(
            node_id="KaleidoPrompt",
            display_name="Kaleido Prompt",
            category=CATEGORY,
            description="Write @image1, @image2, @image3 for the references; the model gets their descriptions.",
            search_aliases=["prompt tags", "@image1", "subject prompt"],
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    default="@image1 walks along a beach at sunset.",
                    tooltip="What happens, with @image1 where the first reference acts. @face1, @object1 and so on "
                    "mean the same.",
                ),
                io.Int.Input(
                    "count",
                    default=1,
                    min=0,
                    max=SOCKETS,
                    tooltip="How many references are connected to Kaleido References. Those without a name below "
                    "are called the first subject and so on.",
                ),
                *(
                    io.String.Input(
                        name,
                        default="",
                        optional=True,
                        tooltip=f"What image {i + 1} shows, as you would tell it: a girl in a red coat. The more "
                        "exactly, the better it is found.",
                    )
                    for i, name in enumerate(NAMES)
                ),
                io.Combo.Input(
                    "template",
                    options=list(TEMPLATES),
                    default=TEMPLATES[0],
                    tooltip="names puts the descriptions into the text; introduced lists them in a sentence before it.",
                ),
            ],
            outputs=[io.String.Output(display_name="prompt", tooltip="For CLIP Text Encode.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, text: str, count: int, template: Template, name1: str = "", name2: str = "", name3: str = ""
    ) -> io.NodeOutput:
        expansion = expand_tags(text, names_of((name1, name2, name3), count), template)
        if expansion.warnings:
            host.show_text(cls.hidden.unique_id, "\n".join(expansion.warnings))
        return io.NodeOutput(expansion.text)
