"""``plan``: whether a clip fits, where its parts will lie, how long it takes, and what to change if it does not fit."""

import argparse

from .. import request_files as files
from ..checkpoints.load import empty_module
from ..checkpoints.lora import merged_bytes, read_lora
from ..checkpoints.weights import shapes_of
from ..config import KALEIDO_14B
from ..offloading.memory_plan import WEIGHT_BYTES, Machine, Work, plan_memory
from ..offloading.plan_report import report
from ..request import DEFAULTS_14B, VAE_DTYPES
from ..sampling.schedule import sigma_schedule
from ..sampling.speed import SPEEDS, branches_of, count_forwards
from ..shapes import VideoSize, check_reference_count
from .exit_codes import DONE
from .memory_size import memory_size

WEIGHTS = ("bf16", "fp8", "int8")  # what ``generate`` computes in; the latter two are its --eight-bit


def add_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    free = "free on the graphics card: less than its label"
    add("--vram", type=memory_size, required=True, metavar="12GiB", help=free)
    add("--ram", type=memory_size, required=True, metavar="32GiB", help="of main memory")
    add("--size", default="landscape", help="landscape, portrait, square or WxH in pixels")
    add("--frames", type=int, default=DEFAULTS_14B.frames)
    add("--references", type=int, default=3)
    add("--steps", type=int, default=DEFAULTS_14B.steps)
    add("--cfg", type=float, default=DEFAULTS_14B.cfg, help="1 halves the work")
    by_references = "more than 1 (the default) is a third forward a step, without the references"
    add("--reference-cfg", type=float, default=DEFAULTS_14B.reference_cfg, help=by_references)
    add(
        "--speed",
        choices=SPEEDS,
        default="exact",
        help="the others take less time, estimated; cached also more of the card",
    )
    merged = "to be merged into the weights, which then stay in main memory; repeat for more"
    add("--lora", action="append", dest="loras", default=[], metavar="FILE", help=merged)
    computed = "what generate computes in; the latter two are its --eight-bit, whatever the file holds"
    add("--weights", "--eight-bit", choices=WEIGHTS, default="bf16", help=computed)
    add("--vae-dtype", choices=VAE_DTYPES, default="fp32", help="default: %(default)s")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    size = VideoSize(arguments.frames, *files.parse_size(arguments.size, DEFAULTS_14B))
    check_reference_count(arguments.references, allow_extra_references=True)
    speed, guided = SPEEDS[arguments.speed], (arguments.cfg, arguments.reference_cfg, arguments.references)
    steps = speed.steps_of(arguments.steps)
    forwards, bare = count_forwards(speed, sigma_schedule(steps, DEFAULTS_14B.shift), *guided)
    work = Work(
        size,
        arguments.references,
        forwards,
        weight_bytes=WEIGHT_BYTES[arguments.weights],
        vae_bytes=VAE_DTYPES[arguments.vae_dtype].itemsize,
        bare_forwards=bare,
        whole=speed.whole,
        cached_branches=branches_of(*guided) if speed.drift else 0,
        merged_bytes=_merged(arguments.loras),
    )
    print(report(plan_memory(work, Machine(arguments.vram, arguments.ram))))
    return DONE


def _merged(loras: list[str]) -> int:
    if not loras:
        return 0
    shapes = shapes_of(empty_module("dit", KALEIDO_14B).state_dict())
    return merged_bytes([read_lora(given) for given in loras], shapes)
