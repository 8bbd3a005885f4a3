"""The names that weights files use, as tables, and their translation into ours (which are Wan's).

A rule pairs a template of ours with one of theirs; ``{i}`` is a block's number, and ``.weight``, ``.bias`` or
``.gamma`` follow on both sides. ``part`` of ``parts`` says which rows of a fused tensor are meant.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["dit", "vae", "text"]
KINDS: tuple[Kind, ...] = ("dit", "vae", "text")


@dataclass(frozen=True)
class Rule:
    ours: str
    theirs: str
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Layout:
    """How one program names one kind of model.

    Any of ``markers`` tells the layout, behind any of ``prefixes``; ``ignored`` are keys that hold no weight of ours.
    """

    name: str
    kind: Kind
    rules: tuple[Rule, ...]
    markers: tuple[str, ...]
    prefixes: tuple[str, ...] = ("",)
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """Rows ``part`` of ``parts`` of the tensor that the file calls ``key``."""

    key: str
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Detected:
    """A layout found in a file, and the prefix in front of its names."""

    layout: Layout
    prefix: str

    def __str__(self) -> str:
        return f"{self.layout.name}, prefix {self.prefix}" if self.prefix else self.layout.name


def _renamed(*pairs: tuple[str, str]) -> tuple[Rule, ...]:
    return tuple(Rule(ours, theirs) for ours, theirs in pairs)


def _fused(ours: str, names: str, theirs: str) -> tuple[Rule, ...]:
    """One tensor of theirs holds the rows of several of ours, in the order of ``names``."""
    return tuple(Rule(f"{ours}.{name}", theirs, part, len(names)) for part, name in enumerate(names))


_SAT_LAYER, _SAT_NORMS = "transformer.layers.{i}", "mixins.adaln_layer"
DIT_SAT_RULES = (
    *_renamed(
        ("patch_embedding", "mixins.patch_embed.proj"),
        ("text_embedding.0", "text_embedding.0"),
        ("text_embedding.2", "text_embedding.2"),
        ("time_embedding.0", "time_embed.0"),
        ("time_embedding.2", "time_embed.2"),
        ("time_projection.1", "adaln_projection.1"),
        ("head.head", "mixins.final_layer.linear"),
        ("head.modulation", "mixins.final_layer.adaLN_modulation"),
        ("blocks.{i}.modulation", _SAT_NORMS + ".adaLN_modulations.{i}"),
        ("blocks.{i}.self_attn.o", _SAT_LAYER + ".attention.dense"),
        ("blocks.{i}.self_attn.norm_q", _SAT_NORMS + ".query_layernorm_list.{i}"),
        ("blocks.{i}.self_attn.norm_k", _SAT_NORMS + ".key_layernorm_list.{i}"),
        ("blocks.{i}.norm3", _SAT_LAYER + ".post_cross_attention_layernorm"),
        ("blocks.{i}.cross_attn.q", _SAT_LAYER + ".cross_attention.query"),
        ("blocks.{i}.cross_attn.o", _SAT_LAYER + ".cross_attention.dense"),
        ("blocks.{i}.cross_attn.norm_q", _SAT_NORMS + ".cross_query_layernorm_list.{i}"),
        ("blocks.{i}.cross_attn.norm_k", _SAT_NORMS + ".cross_key_layernorm_list.{i}"),
        ("blocks.{i}.ffn.0", _SAT_LAYER + ".mlp.dense_h_to_4h"),
        ("blocks.{i}.ffn.2", _SAT_LAYER + ".mlp.dense_4h_to_h"),
    ),
    *_fused("blocks.{i}.self_attn", "qkv", _SAT_LAYER + ".attention.query_key_value"),
    *_fused("blocks.{i}.cross_attn", "kv", _SAT_LAYER + ".cross_attention.key_value"),
)

DIT_DIFFUSERS_RULES = (
    *_renamed(
        ("patch_embedding", "patch_embedding"),
        ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
        ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
        ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
        ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
        ("time_projection.1", "condition_embedder.time_proj"),
        ("head.head", "proj_out"),
        ("head.modulation", "scale_shift_table"),
        ("blocks.{i}.modulation", "blocks.{i}.scale_shift_table"),
        ("blocks.{i}.norm3", "blocks.{i}.norm2"),
        ("blocks.{i}.ffn.0", "blocks.{i}.ffn.net.0.proj"),
        ("blocks.{i}.ffn.2", "blocks.{i}.ffn.net.2"),
    ),
    *(
        Rule(f"blocks.{{i}}.{ours}.{name}", f"blocks.{{i}}.{theirs}.{their_name}")
        for ours, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for name, their_name in (
            ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"), ("norm_q", "norm_q"), ("norm_k", "norm_k"),
        )
    ),
)  # fmt: skip

_RESIDUAL = (("residual.0", "norm1"), ("residual.2", "conv1"), ("residual.3", "norm2"), ("residual.6", "conv2"))
_RESNET = (*_RESIDUAL, ("shortcut", "conv_shortcut"))
_RESAMPLE = (("resample.1", "resample.1"), ("time_conv", "time_conv"))
VAE_DIFFUSERS_RULES = (
    *_renamed(("conv1", "quant_conv"), ("conv2", "post_quant_conv")),
    *(
        Rule(f"{half}.{ours}", f"{half}.{theirs}")
        for half in ("encoder", "decoder")
        for ours, theirs in (
            ("conv1", "conv_in"),
            ("head.0", "norm_out"),
            ("head.2", "conv_out"),
            *((f"middle.1.{name}", f"mid_block.attentions.0.{name}") for name in ("norm", "to_qkv", "proj")),
            *(
                (f"middle.{2 * n}.{ours}", f"mid_block.resnets.{n}.{theirs}")
                for n in (0, 1)
                for ours, theirs in _RESIDUAL
            ),
        )
    ),
    *(
        Rule(f"encoder.downsamples.{{i}}.{ours}", f"encoder.down_blocks.{{i}}.{theirs}")
        for ours, theirs in (*_RESNET, *_RESAMPLE)
    ),
    # The decoder's flat list is three resnets and a resampler per stage; the last stage has no resampler.
    *(
        Rule(f"decoder.upsamples.{4 * stage + n}.{ours}", f"decoder.up_blocks.{stage}.resnets.{n}.{theirs}")
        for stage in range(4)
        for n in range(3)
        for ours, theirs in _RESNET
    ),
    *(
        Rule(f"decoder.upsamples.{4 * stage + 3}.{ours}", f"decoder.up_blocks.{stage}.upsamplers.0.{theirs}")
        for stage in range(3)
        for ours, theirs in _RESAMPLE
    ),
)

_T5_ATTENTION, _T5_MLP = "encoder.block.{i}.layer.0", "encoder.block.{i}.layer.1"
TEXT_TRANSFORMERS_RULES = _renamed(
    ("token_embedding", "shared"),
    ("norm", "encoder.final_layer_norm"),
    ("blocks.{i}.norm1", _T5_ATTENTION + ".layer_norm"),
    *((f"blocks.{{i}}.attn.{name}", f"{_T5_ATTENTION}.SelfAttention.{name}") for name in "qkvo"),
    ("blocks.{i}.pos_embedding.embedding", _T5_ATTENTION + ".SelfAttention.relative_attention_bias"),
    ("blocks.{i}.norm2", _T5_MLP + ".layer_norm"),
    ("blocks.{i}.ffn.gate.0", _T5_MLP + ".DenseReluDense.wi_0"),
    ("blocks.{i}.ffn.fc1", _T5_MLP + ".DenseReluDense.wi_1"),
    ("blocks.{i}.ffn.fc2", _T5_MLP + ".DenseReluDense.wo"),
)


def _identity(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    return tuple(Rule(rule.ours, rule.ours) for rule in rules)


# ComfyUI's text encoder files carry their tokenizer as a tensor; transformers ties a second name to the embedding.
_TEXT_EXTRAS = ("spiece_model", "encoder.embed_tokens.weight")
DIT_WAN = Layout(
    "Wan", "dit", _identity(DIT_SAT_RULES),
    markers=("head.modulation", "patch_embedding.weight", "blocks.0.self_attn.q.weight"),
    prefixes=("", "model.diffusion_model.", "diffusion_model."),
)  # fmt: skip
DIT_SAT = Layout(
    "official SAT", "dit", DIT_SAT_RULES,
    markers=("mixins.patch_embed.proj.weight", "mixins.final_layer.linear.weight"),
    prefixes=("model.diffusion_model.", ""),
)  # fmt: skip
DIT_DIFFUSERS = Layout(
    "diffusers", "dit", DIT_DIFFUSERS_RULES,
    markers=("condition_embedder.time_proj.weight", "blocks.0.attn1.to_q.weight"),
    prefixes=("", "transformer."),
)  # fmt: skip
VAE_WAN = Layout(
    "Wan", "vae", _identity(VAE_DIFFUSERS_RULES),
    markers=("decoder.middle.0.residual.0.gamma", "encoder.downsamples.0.residual.0.gamma"),
    prefixes=("", "first_stage_model.", "vae."),
)  # fmt: skip
VAE_DIFFUSERS = Layout(
    "diffusers", "vae", VAE_DIFFUSERS_RULES,
    markers=("decoder.mid_block.resnets.0.norm1.gamma", "encoder.down_blocks.0.norm1.gamma"),
    prefixes=("", "vae."),
)  # fmt: skip
TEXT_WAN = Layout(
    "Wan", "text", _identity(TEXT_TRANSFORMERS_RULES),
    markers=("token_embedding.weight", "blocks.0.attn.q.weight"),
    prefixes=("", "conditioner.embedders.0.model."), ignored=_TEXT_EXTRAS,
)  # fmt: skip
TEXT_TRANSFORMERS = Layout(
    "transformers", "text", TEXT_TRANSFORMERS_RULES,
    markers=("shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"),
    prefixes=("", "text_encoders.umt5xxl.transformer.", "text_encoder."), ignored=_TEXT_EXTRAS,
)  # fmt: skip
# DIT_WAN's markers must be looked for after diffusers', which shares ``patch_embedding``.
LAYOUTS = (DIT_SAT, DIT_DIFFUSERS, DIT_WAN, VAE_WAN, VAE_DIFFUSERS, TEXT_WAN, TEXT_TRANSFORMERS)
_ALL_PREFIXES = tuple({prefix for layout in LAYOUTS for prefix in layout.prefixes if prefix})


def detect(keys: Collection[str], kind: Kind | None = None) -> Detected | None:
    """The layout of these keys, of one kind of model or of any."""
    for layout in LAYOUTS:
        if kind not in (None, layout.kind):
            continue
        for prefix in layout.prefixes:
            if any(prefix + marker in keys for marker in layout.markers):
                return Detected(layout, prefix)
    return None


def translate(keys: Collection[str], detected: Detected) -> tuple[dict[str, Piece], list[str]]:
    """Where each tensor of ours lies in the file, and the keys that belong to no rule.

    Keys of other models in the same file (a text encoder beside the DiT) are passed over.
    """
    prefix, layout = detected.prefix, detected.layout
    pieces: dict[str, Piece] = {}
    unknown = []
    for key in keys:
        if prefix and not key.startswith(prefix):
            if not key.startswith(_ALL_PREFIXES):
                unknown.append(key)
            continue
        name = key.removeprefix(prefix)
        found = _ours(name, layout)
        pieces |= {ours: Piece(key, part, parts) for ours, part, parts in found}
        if not found and name not in layout.ignored:
            unknown.append(key)
    return pieces, unknown


def export(tensors: Mapping[str, Tensor], layout: Layout, prefix: str | None = None) -> dict[str, Tensor]:
    """Our tensors under a layout's names, fused where it fuses; ``prefix`` is the layout's first unless given."""
    prefix = layout.prefixes[0] if prefix is None else prefix
    parts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        for piece in theirs(name, layout):
            parts.setdefault(prefix + piece.key, {})[piece.part] = tensor
    return {
        key: torch.cat([rows[part] for part in sorted(rows)]) if len(rows) > 1 else rows[0]
        for key, rows in parts.items()
    }


def theirs(name: str, layout: Layout) -> list[Piece]:
    """Where a layout keeps one tensor of ours, without its prefix; nowhere if it does not know the name."""
    return [
        Piece(rule.theirs.format(i=match["i"] if "{i}" in rule.ours else "") + match["leaf"], rule.part, rule.parts)
        for pattern, rule in _patterns(layout, theirs=False)
        if (match := pattern.fullmatch(name))
    ]


def _ours(name: str, layout: Layout) -> list[tuple[str, int, int]]:
    """Our names for one of theirs, each with its part of the rows."""
    return [
        (rule.ours.format(i=match["i"] if "{i}" in rule.ours else "") + match["leaf"], rule.part, rule.parts)
        for pattern, rule in _patterns(layout, theirs=True)
        if (match := pattern.fullmatch(name))
    ]


@cache
def _patterns(layout: Layout, theirs: bool) -> tuple[tuple[re.Pattern[str], Rule], ...]:
    leaf = r"(?P<leaf>(?:\.(?:weight|bias|gamma))?)"

    def compiled(template: str) -> re.Pattern[str]:
        return re.compile(re.escape(template).replace(r"\{i\}", r"(?P<i>\d+)") + leaf)

    return tuple((compiled(rule.theirs if theirs else rule.ours), rule) for rule in layout.rules)
