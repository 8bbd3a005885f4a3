"""What sits where while a clip is made, and whether it fits: sums and a few measured constants; nothing is loaded.

``placement`` decides by the same sums when it has the model, so the plan is what ``generate`` will do. Peaks measured
on an H200 are within a few percent of these (tests/offloading/test_memory_plan.py).
"""

import functools
from dataclasses import dataclass

import torch

from ..config import KALEIDO_14B, DiTConfig
from ..errors import ConfigError
from ..rowwise import BATCH_ROWS
from ..shapes import VideoSize
from ..vae.model import WanVAE
from ..vae.tile_memory import CountBytes, decode_bytes, encode_bytes, tiles_of
from ..vae.tiling import Size
from .arithmetic import block_parameters, parameters_of, product_parameters
from .block_swap import SLOTS

GIB = 2**30
WEIGHT_BYTES = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "gguf Q8_0": 1.0625,
    "gguf Q4_K": 0.5625,
}
# Of the card, beside all that is counted. Its allocator holds memory that it cannot piece together: 1.05 GiB more than
# tensors did when blocks of the 14B model took turns, and a cap, or the card's end, counts that too.
RESERVE = 5 * GIB // 4
# Copies that a forward holds at most, of all tokens and of those that go through a layer at a time, counted on fake
# tensors of many lengths (tests/offloading/test_memory_plan.py): in attention, and in the MLP with its hidden values.
ATTENTION_COPIES, MLP_COPIES = (4.37, 2.17), (3.06, 5.48)
CACHED_COPIES = 2  # of the video's tokens, by the step cache for each branch (tests/sampling/test_step_cache.py)
COMPILED_COPIES = 2.4  # of all tokens besides, where torch.compile made the blocks: 7.42 in all on an H200
WORKSPACE = 0.3 * GIB  # inputs, and what the libraries borrow: peaks of block swap lay so much above the sums
TEXT_WORK = GIB // 2  # beside the text encoder's weights, for two prompts of 512 tokens
TEXT_ENCODER_PARAMETERS, VAE_PARAMETERS = 5_680_910_336, 126_892_531
WORD_PARAMETERS, TEXT_BLOCKS = 256_384 * 4096, 24  # of the text encoder, which computes in bfloat16
STAGES = ("text", "references", "sampling", "decoding")
HOST_RESERVE = 3 * GIB  # of main memory: the program with torch and its libraries; an assumption


@dataclass(frozen=True)
class Work:
    """One clip: ``forwards`` counts the model's calls with the references, two a step with guidance by the text, and
    ``bare_forwards`` those without, one a step with guidance by the references.

    ``weight_bytes`` are a parameter's of the transformer's linear layers, ``vae_bytes`` one's of the autoencoder.
    A step cache runs the share ``whole`` of the forwards whole, and remembers so many ``cached_branches``.
    ``merged_bytes`` are those of weights in bfloat16 that a LoRA has changed, and no file holds any more.
    """

    size: VideoSize
    references: int
    forwards: int = 100
    config: DiTConfig = KALEIDO_14B
    weight_bytes: float = WEIGHT_BYTES["bf16"]
    vae_bytes: int = 4
    bare_forwards: int = 0
    whole: float = 1.0
    cached_branches: int = 0
    merged_bytes: float = 0.0

    def __post_init__(self) -> None:
        if self.weight_bytes <= 0 or self.references < 0 or self.forwards < 1 or self.vae_bytes not in (2, 4):
            raise ConfigError(
                f"{self.weight_bytes} bytes a weight, {self.vae_bytes} of the autoencoder, {self.references} "
                f"references, {self.forwards} forwards: there is nothing to plan. Give positive numbers."
            )

    @property
    def tokens(self) -> int:
        """Of references and video together."""
        return self._frame_tokens * (self.size.latent_frames + self.references)

    @property
    def video_tokens(self) -> int:
        return self._frame_tokens * self.size.latent_frames

    @property
    def _frame_tokens(self) -> int:
        return (self.size.height // 16) * (self.size.width // 16)

    @property
    def sampling_bytes(self) -> float:
        """What sampling holds beside the weights."""
        return activation_bytes(self.tokens, self.config.width, cached_tokens=self.cached_branches * self.video_tokens)

    @property
    def eight_bit(self) -> bool:
        return self.weight_bytes <= 1

    @property
    def autoencoder(self) -> int:
        """Bytes of its weights."""
        return VAE_PARAMETERS * self.vae_bytes

    @property
    def result_bytes(self) -> int:
        """Of the clip in float32."""
        return 4 * 3 * self.size.frames * self.size.height * self.size.width


@dataclass(frozen=True)
class Machine:
    """Bytes of the graphics card's memory and of main memory."""

    vram: float
    ram: float


@dataclass(frozen=True)
class Blocks:
    """Bytes of a model that is made of blocks: how many, one of them, and ``rest``, all that is no block."""

    count: int
    each: float
    rest: float

    @property
    def size(self) -> float:
        return self.count * self.each + self.rest

    def resident(self, room: float) -> int:
        """How many can lie within ``room`` bytes all the time, beside the rest and two visitors."""
        if self.size <= room:
            return self.count
        return max(0, int((room - self.rest) // self.each) - SLOTS)

    def ring(self, resident: int) -> float:
        """What the visitors take."""
        return min(SLOTS, self.count - resident) * self.each


@dataclass(frozen=True)
class Stage:
    """Bytes on the card in one stage of a clip; ``other`` are the transformer's weights outside of its blocks."""

    name: str
    work: float
    text_encoder: float = 0
    autoencoder: float = 0
    blocks: float = 0
    ring: float = 0
    other: float = 0

    @property
    def peak(self) -> float:
        """All that tensors take."""
        return self.work + self.text_encoder + self.autoencoder + self.blocks + self.ring + self.other


@dataclass(frozen=True)
class Plan:
    """The four stages, and in bytes: ``streamed``, the blocks that each forward brings to the card; the main memory
    without which nothing runs (``ram_least``), and that which keeps the disk idle (``ram_enough``).

    ``stays``: all parts lie on the card all the time. ``tile``: pixels of the autoencoder's tiles, height and width.
    """

    work: Work
    machine: Machine
    stages: tuple[Stage, ...]
    resident: int
    stays: bool
    tile: Size
    streamed: float
    ram_least: float
    ram_enough: float

    @property
    def peak(self) -> float:
        """Of the card, with what is kept free."""
        return max(stage.peak for stage in self.stages) + RESERVE

    @property
    def ram_converting(self) -> float:
        """As ``ram_least``, with a file of another type than bfloat16: its weights are made in main memory."""
        return max(self.ram_least, HOST_RESERVE + self.work.result_bytes + 2.0 * parameters_of(self.work.config))

    @property
    def fits(self) -> bool:
        return self.peak <= self.machine.vram and self.ram_least <= self.machine.ram

    @property
    def from_disk(self) -> float:
        """Bytes that each forward reads from the disk: half of the free main memory is pinned, and what goes through
        the other half time and again is never found there when it is wanted."""
        if self.machine.ram >= self.ram_enough:
            return 0.0
        return self.ram_enough - self.ram_least - max(0.0, self.machine.ram - self.ram_least) / 2


def plan_memory(work: Work, machine: Machine) -> Plan:
    """What ``generate`` does with so much memory, for safetensors files in the type that it computes in."""
    dit, text, room = transformer_of(work), text_encoder_of(work), machine.vram - RESERVE
    together = _together(work, dit, text)
    stays = max(stage.peak for stage in together) <= room
    resident = dit.count if stays else dit.resident(room - work.sampling_bytes)
    streamed = (dit.count - resident) * dit.each
    # Weights in eight bits are made here, after those that a LoRA has changed; others are those of the mapped file, of
    # which nothing need be kept.
    made = max(work.merged_bytes, dit.size if work.eight_bit else 0.0)
    mapped = 0.0 if work.eight_bit else streamed * max(0.0, 1 - work.merged_bytes / dit.size)
    staging = SLOTS * dit.each if mapped else 0.0
    ram_least = HOST_RESERVE + work.result_bytes + made + staging
    return Plan(
        work=work,
        machine=machine,
        stages=together if stays else _in_turns(work, dit, resident, text, room),
        resident=resident,
        stays=stays,
        tile=_sides(work) if stays else _tile(decode_bytes, work, work.size.frames, room),
        streamed=streamed,
        ram_least=ram_least,
        ram_enough=ram_least + mapped,
    )


def _together(work: Work, dit: Blocks, text: Blocks) -> tuple[Stage, ...]:
    """All parts on the card from beginning to end; so is the clip."""
    pixels = _autoencoder_bytes(decode_bytes, work, work.size.frames, _sides(work)) + work.result_bytes
    picture = _autoencoder_bytes(encode_bytes, work, 1, _sides(work))
    return tuple(
        Stage(name, needed, text.size, work.autoencoder, dit.count * dit.each, 0, dit.rest)
        for name, needed in zip(STAGES, (TEXT_WORK, picture, work.sampling_bytes, pixels), strict=True)
    )


def _in_turns(work: Work, dit: Blocks, resident: int, text: Blocks, room: float) -> tuple[Stage, ...]:
    """One part at a time; the clip is gathered in main memory."""
    words = text.resident(room - TEXT_WORK)
    picture, pixels = (
        _autoencoder_bytes(count, work, frames, _tile(count, work, frames, room))
        for count, frames in ((encode_bytes, 1), (decode_bytes, work.size.frames))
    )
    return (
        Stage("text", TEXT_WORK, text_encoder=words * text.each + text.ring(words) + text.rest),
        Stage("references", picture, autoencoder=work.autoencoder),
        Stage("sampling", work.sampling_bytes, 0, 0, resident * dit.each, dit.ring(resident), dit.rest),
        Stage("decoding", pixels, autoencoder=work.autoencoder),
    )


def transformer_of(work: Work) -> Blocks:
    """Eight bits, or whatever ``weight_bytes`` says, are those of the linear layers in the blocks."""
    config, products = work.config, product_parameters(work.config)
    plain = max(2.0, work.weight_bytes)
    scales = 4 * (9 * config.width + config.mlp_width) if work.eight_bit else 0  # float32, one for each row
    a_block = work.weight_bytes * products + plain * (block_parameters(config) - products) + scales
    rest = parameters_of(config) - config.num_layers * block_parameters(config)
    return Blocks(config.num_layers, a_block, plain * rest)


def text_encoder_of(work: Work) -> Blocks:
    """UMT5-XXL in bfloat16; nothing for a model that reads other text, such as the embedded one."""
    if work.config.text_width != KALEIDO_14B.text_width:
        return Blocks(0, 0, 0)
    return Blocks(TEXT_BLOCKS, 2 * (TEXT_ENCODER_PARAMETERS - WORD_PARAMETERS) / TEXT_BLOCKS, 2 * WORD_PARAMETERS)


def activation_bytes(
    tokens: int, width: int, itemsize: int = 2, cached_tokens: int = 0, compiled: bool = False
) -> float:
    """What a forward holds beside the weights. ``cached_tokens``: of the video, in all branches of the step cache."""
    part = tokens / -(-tokens // BATCH_ROWS)  # as rowwise.py cuts them
    copies = max(all_ * tokens + some * part for all_, some in (ATTENTION_COPIES, MLP_COPIES))
    of_time = 24 * width**2  # the widest weights of the time path in float32: more than few tokens hold
    more = COMPILED_COPIES * tokens * compiled + CACHED_COPIES * cached_tokens
    return max(copies * width * itemsize, of_time) + more * width * itemsize + WORKSPACE


def _sides(work: Work) -> Size:
    return work.size.height, work.size.width


def _tile(count: CountBytes, work: Work, frames: int, room: float) -> Size:
    """That which ``choose_tile`` finds, or the smallest where it finds none."""
    tiles = tiles_of(_sides(work))
    budget = room - work.autoencoder
    return next((tile for tile in tiles if _autoencoder_bytes(count, work, frames, tile) <= budget), tiles[-1])


@functools.cache
def _autoencoder_bytes(count: CountBytes, work: Work, frames: int, tile: Size) -> int:
    return count(_autoencoder(work.vae_bytes), (frames, work.size.height, work.size.width), tile)


@functools.cache
def _autoencoder(itemsize: int) -> WanVAE:
    """Shapes without weights."""
    with torch.device("meta"):
        return WanVAE().to(torch.bfloat16 if itemsize == 2 else torch.float32)
