"""A memory plan for people: a table of what sits where, the seconds, and the first change if it does not fit."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..errors import ShapeError
from ..shapes import VideoSize, nearest_side
from .arithmetic import forward_flops
from .cards import (
    CARDS,
    DECODE,
    DECODE_TILES,
    DISK,
    ENCODE,
    H200,
    Card,
    duration,
    forward_seconds,
    pixel_seconds,
    product_seconds,
)
from .memory_plan import GIB, RESERVE, Machine, Plan, Work, plan_memory, text_encoder_of

FRAMES = (65, 49, 33, 17, 9)
SCALES = (1.0, 0.75, 0.5)
CONVERT = "the file that convert --lora writes"


@dataclass(frozen=True)
class Change:
    """Options of ``generate`` that make a clip fit, and the plan with them."""

    options: str
    plan: Plan


def report(plan: Plan) -> str:
    """Everything, in lines of text."""
    lines = [*_heading(plan), "", *_table(plan), "", *_main_memory(plan), *_times(plan), ""]
    return "\n".join([*lines, "It fits." if plan.fits else _advice(plan)])


def seconds(plan: Plan, card: Card) -> tuple[float, float, float, float]:
    """Of the four stages, once the files are in main memory."""
    work, text = plan.work, text_encoder_of(plan.work)
    frame = work.size.height * work.size.width
    vae = 0 if plan.stays else work.autoencoder / card.link
    decode = DECODE if plan.stays else DECODE_TILES
    return (
        text.size / card.link + product_seconds(text.count * text.each * 1024, card),  # two prompts of 512 tokens
        vae + pixel_seconds(ENCODE, frame * work.references, work.vae_bytes, card),
        sampling_seconds(plan, card),
        vae + pixel_seconds(decode, frame * work.size.frames, work.vae_bytes, card),
    )


def sampling_seconds(plan: Plan, card: Card) -> float:
    work, copied, read = plan.work, plan.streamed / card.link, plan.from_disk / DISK
    with_references, without = (
        max(forward_seconds(work.config, tokens, work.eight_bit, card), copied, read)
        for tokens in (work.tokens, work.video_tokens)
    )
    whole = work.whole + (1 - work.whole) / work.config.num_layers  # the others run their first block
    return whole * (work.forwards * with_references + work.bare_forwards * without)


def first_change(work: Work, machine: Machine) -> Change | None:
    """The change that costs the picture least among those that make the clip fit; None where none of ours does."""
    for options, changed in _changes(work):
        plan = plan_memory(changed, machine)
        if plan.fits:
            return Change(options, plan)
    return None


def _changes(work: Work) -> Iterator[tuple[str, Work]]:
    """Ever smaller works: other numbers first, then fewer frames, then fewer pixels."""
    numbers = list(_other_numbers(work))
    yield from numbers
    numbers.insert(0, ("", work))
    for scale in SCALES:
        height, width = (nearest_side(round(side * scale)) for side in (work.size.height, work.size.width))
        for frames in (work.size.frames, *(few for few in FRAMES if few < work.size.frames)):
            try:
                size = VideoSize(frames, height, width)
            except ShapeError:
                continue
            smaller = f"--frames {frames}" if frames < work.size.frames else ""
            if scale < 1:
                smaller = f"--size {width}x{height} {smaller}".strip()
            if smaller:
                yield from ((f"{options} {smaller}".strip(), replace(one, size=size)) for options, one in numbers)


def _other_numbers(work: Work) -> Iterator[tuple[str, Work]]:
    if work.merged_bytes:
        merged = replace(work, merged_bytes=0.0)  # a file with the LoRA inside is mapped as any other
        yield CONVERT, merged
        yield from ((f"{CONVERT}, {options}", one) for options, one in _other_numbers(merged))
        return
    half = replace(work, vae_bytes=2)
    if work.vae_bytes == 4:
        yield "--vae-dtype bf16", half
    if work.eight_bit:
        yield "no --eight-bit", replace(work, weight_bytes=2.0)  # the file needs not be kept in main memory
        return
    yield "--eight-bit int8", replace(work, weight_bytes=1.0)
    if work.vae_bytes == 4:
        yield "--vae-dtype bf16 --eight-bit int8", replace(half, weight_bytes=1.0)


def _heading(plan: Plan) -> Iterator[str]:
    work, whole = plan.work, (plan.work.size.height, plan.work.size.width)
    flops = forward_flops(work.config, work.tokens) / 1e15
    bare = forward_flops(work.config, work.video_tokens) / 1e15
    yield (
        f"{whole[1]}x{whole[0]}, {work.size.frames} frames, {work.references} references: {work.tokens:,} tokens, "
        f"{work.forwards} forwards of {flops:.2f} PFLOP"
        + (f", {work.bare_forwards} without references of {bare:.2f}" if work.bare_forwards else "")
    )
    if work.whole < 1:
        yield f"The step cache runs {100 * work.whole:.0f} % of them whole, as measured on kaleido-tiny."
    if plan.stays:
        yield "All parts stay on the card."
        return
    pixels = "whole" if plan.tile == whole else f"in tiles of {plan.tile[1]}x{plan.tile[0]}"
    yield f"The parts take turns; {plan.resident} of {work.config.num_layers} blocks stay; frames decode {pixels}."


def _table(plan: Plan) -> Iterator[str]:
    rows = {
        "text encoder": [stage.text_encoder for stage in plan.stages],
        "autoencoder": [stage.autoencoder for stage in plan.stages],
        "resident blocks": [stage.blocks for stage in plan.stages],
        "ring of visiting blocks": [stage.ring for stage in plan.stages],
        "other transformer weights": [stage.other for stage in plan.stages],
        "activations": [stage.work for stage in plan.stages],
        "kept free": [RESERVE] * len(plan.stages),
        "on the card": [stage.peak + RESERVE for stage in plan.stages],
    }
    yield f"{'GiB':25}" + "".join(f"{stage.name:>12}" for stage in plan.stages)
    for name, values in rows.items():
        yield f"{name:25}" + "".join(f"{value / GIB:12.2f}" if value else f"{'-':>12}" for value in values)
    yield f"{'seconds on an H200':25}" + "".join(f"{value:12.1f}" for value in seconds(plan, H200))


def _main_memory(plan: Plan) -> Iterator[str]:
    yield (
        f"card: {plan.peak / GIB:.1f} of {plan.machine.vram / GIB:.1f} GiB; main memory: at least "
        f"{plan.ram_least / GIB:.1f}, best {plan.ram_enough / GIB:.1f} of {plan.machine.ram / GIB:.1f} GiB"
    )
    if plan.fits:
        yield (
            "That is for a .safetensors file in bfloat16; others (fp8_scaled, fp16, fp32) are converted in memory, "
            f"{plan.ram_converting / GIB:.1f} GiB of it; `convert --dtype bf16` does that once."
        )
    if plan.from_disk and plan.fits:
        yield f"Each forward reads {plan.from_disk / GIB:.1f} GiB from the disk, at {DISK / 1e9:.0f} GB/s (assumed)."


def _times(plan: Plan) -> Iterator[str]:
    times = [f"{card.name} {duration(sum(seconds(plan, card)))}" for card in CARDS]
    yield f"time: {times[0]}, from measured speeds" + ("" if plan.from_disk else ", once the files are in main memory")
    only = " (in int8: fp8 needs an RTX 40 or later)" if plan.work.eight_bit else ""
    yield f"estimates by TFLOP/s and bus{only}: {', '.join(times[1:])}"


def _advice(plan: Plan) -> str:
    change = first_change(plan.work, plan.machine)
    if change is None:
        tried = [Change(options, plan_memory(work, plan.machine)) for options, work in _changes(plan.work)]
        least = min(tried, key=lambda one: _lacking(one.plan))
        return f"It does not fit, and no option makes it fit: the least is {_needs(least.plan)}, with {least.options}."
    return f"It does not fit. First change: {change.options} (then {_needs(change.plan)})."


def _lacking(plan: Plan) -> float:
    """Bytes of the card and of main memory together."""
    return max(0.0, plan.peak - plan.machine.vram) + max(0.0, plan.ram_least - plan.machine.ram)


def _needs(plan: Plan) -> str:
    return (
        f"{plan.peak / GIB:.1f} GiB of the card and {plan.ram_least / GIB:.1f} of main memory, "
        f"{duration(sum(seconds(plan, H200)))} on an H200"
    )
