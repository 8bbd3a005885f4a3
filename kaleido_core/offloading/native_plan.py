"""As ``memory_plan``, for ComfyUI's own Wan model and autoencoder, which the nodes turn into Kaleido."""

from dataclasses import dataclass

from ..config import KALEIDO_14B
from .arithmetic import forward_flops, parameters_of
from .cards import CARDS, H200, duration
from .memory_plan import GIB, TEXT_ENCODER_PARAMETERS, VAE_PARAMETERS, WEIGHT_BYTES, Machine, Work

# Measured on ComfyUI 0.33's own Wan model, bfloat16, 14B, 43,008 tokens: 4.16 GiB of activations, 10.15 of [N D].
ACTIVATIONS = 10.15
# Measured on ComfyUI's Wan autoencoder in bfloat16 at 512x896: 2.4 GiB to encode, 3.6 GiB to decode.
ENCODE_BYTES, DECODE_BYTES = 2.4 * GIB / (512 * 896), 3.6 * GIB / (512 * 896)  # a pixel of one frame
VAE_WEIGHTS, TEXT_ENCODER_WEIGHTS = 2 * VAE_PARAMETERS, TEXT_ENCODER_PARAMETERS  # bfloat16, fp8
RESERVE = 0.8 * GIB  # the system's and the framework's own share of the card
RAM_RESERVE = 6 * GIB
# What that forward of 2.56 PFLOP reached: in 6.48 s, and in 4.59 s with Kaleido Attention.
H200_FLOPS, H200_FLOPS_WITH_ATTENTION = 395e12, 558e12
GAMING = next(card for card in CARDS if card.name == "RTX 4090")


@dataclass(frozen=True)
class NativePlan:
    """Bytes each part needs, and how many of the model's blocks stay on the card while sampling."""

    weights: float
    activations: float
    encoding: float
    decoding: float
    text_encoder: float
    resident: int
    blocks: int
    flops: float
    fits: bool
    advice: tuple[str, ...]

    @property
    def text(self) -> str:
        """For people, in GiB."""
        where = f"{self.resident} of {self.blocks} blocks on the card, the rest in main memory"
        lines = [
            f"transformer weights  {_gib(self.weights)}  ({where if self.resident < self.blocks else 'on the card'})",
            f"work while sampling  {_gib(self.activations)}",
            f"encoding references  {_gib(self.encoding)}",
            f"decoding the clip    {_gib(self.decoding)}",
            f"text encoder in fp8  {_gib(self.text_encoder)}  (before the rest, then gone)",
            f"arithmetic           {self.flops / 1e15:,.1f} PFLOP: {self._times(1)} on an H200; "
            f"{self._times(H200.flops / GAMING.flops)} on an {GAMING.name} (an estimate)",
            "It fits." if self.fits else "It does not fit.",
        ]
        return "\n".join([*lines, *(f"- {line}" for line in self.advice)])

    def _times(self, slower: float) -> str:
        own, with_ours = (duration(slower * self.flops / rate) for rate in (H200_FLOPS, H200_FLOPS_WITH_ATTENTION))
        return f"{own} ({with_ours} with Kaleido Attention)"


def plan_native(work: Work, machine: Machine) -> NativePlan:
    """Peak memory by part (SPEC 1 sizes; estimates where no constant was measured)."""
    config = work.config
    weights = parameters_of(config) * work.weight_bytes
    a_block = weights / config.num_layers
    activations = ACTIVATIONS * work.tokens * config.width * 2
    pixels = work.size.height * work.size.width
    room = machine.vram - RESERVE - activations
    # Streaming needs two more blocks on the card: one at work, one on its way.
    resident = config.num_layers if room >= weights else max(0, int(room / a_block) - 2)
    swapped = (config.num_layers - resident) * a_block
    decoding = VAE_WEIGHTS + DECODE_BYTES * pixels
    fits_card = room >= min(weights, 2 * a_block)
    text_encoder = TEXT_ENCODER_WEIGHTS if config.text_width == KALEIDO_14B.text_width else 0
    ram = max(swapped, text_encoder) + RAM_RESERVE  # one after the other
    fits_ram = machine.ram >= ram
    return NativePlan(
        weights=weights,
        activations=activations,
        encoding=VAE_WEIGHTS + ENCODE_BYTES * pixels,
        decoding=decoding,
        text_encoder=text_encoder,
        resident=resident,
        blocks=config.num_layers,
        flops=work.forwards * forward_flops(config, work.tokens)
        + work.bare_forwards * forward_flops(config, work.video_tokens),
        fits=fits_card and fits_ram,
        advice=tuple(_advice(work, machine, fits_card, ram, resident, decoding)),
    )


def _advice(work: Work, machine: Machine, fits_card: bool, ram: float, resident: int, decoding: float) -> list[str]:
    lines = []
    fits_ram = machine.ram >= ram
    if not fits_ram:
        lines.append(f"{machine.ram / GIB:.1f} GiB of main memory are too few; {ram / GIB:.1f} are needed.")
    smaller = _smaller_file(work.weight_bytes)
    if not (fits_card and fits_ram) and smaller:
        lines.append(f"Take {smaller}.")
    if not fits_card:
        lines.append("Even two blocks at a time are too large for the card: choose a smaller size or fewer frames.")
    if fits_card and fits_ram and resident < work.config.num_layers:
        keep = f"; {smaller} keeps more of them on the card" if smaller else ""
        lines.append(f"Weights stream from main memory at each step{keep}.")
    if decoding > machine.vram - RESERVE:
        lines.append("Use VAE Decode (Tiled).")
    if work.forwards > 20 and work.config == KALEIDO_14B:
        lines.append("A 4-step distilled LoRA with cfg 1 needs 4 forwards instead.")
    return lines


def _smaller_file(weight_bytes: float) -> str:
    if weight_bytes > WEIGHT_BYTES["gguf Q8_0"]:
        return "a file in fp8 (half the size) or a GGUF Q4 file (a quarter)"
    return "a GGUF Q4 file (half the size)" if weight_bytes > WEIGHT_BYTES["gguf Q4_K"] else ""


def _gib(count: float) -> str:
    return f"{count / GIB:6.1f} GiB"
