"""``generate``: clips from prompts and reference images, from a list, or again from a clip."""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from tqdm import tqdm

from .. import request_files as files
from ..dit.attention import KERNELS
from ..errors import ConfigError
from ..generate import Models, Result, load_models, render
from ..offloading.memory_plan import GIB
from ..placement import with_index
from ..quantization.quantize import FORMATS
from ..request import VAE_DTYPES
from ..request_files import Job, Record
from ..sampling.speed import SPEEDS, speed_of
from ..shapes import Step, check_reference_count
from .exit_codes import DIFFERS, DONE
from .jobs import jobs_of
from .memory_size import memory_size_or_auto


def add_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", help="what happens in the clip")
    what.add_argument("--list", type=Path, metavar="FILE", help="many clips: a line prompt@@image@@image for each")
    what.add_argument("--replay", type=Path, metavar="CLIP", help="make a clip again from its mp4 or json")
    add("--reference", action="append", default=[], metavar="IMAGE", help="an image of a subject; repeat for more")
    add("--model", help='"tiny" (default), a folder, or a file with the video transformer')
    add("--vae", metavar="FILE", help="with a transformer file")
    add("--text-encoder", metavar="FILE", help="with a transformer file")
    add("--tokenizer", metavar="PATH", help="with a transformer file")
    add("--lora", action="append", dest="loras", metavar="FILE[:STRENGTH]", help="repeat for more")
    add("--size", help="landscape, portrait, square or WxH in pixels (multiples of 16)")
    add("--frames", type=int, help="1, 5, 9, ... (4k + 1)")
    add("--steps", type=int)
    add("--cfg", type=float, help="guidance; 1 is off and twice as fast")
    add("--reference-cfg", type=float, help="guidance by the references; 1 is off, more is a third forward a step")
    add("--shift", type=float, help="more than 1 spends more steps on the layout")
    add("--seed", type=int, help="default: 0")
    add("--negative", metavar="TEXT", help="what to keep away from")
    add("--speed", choices=SPEEDS, help="default: exact; the others change the clip a little and take less time")
    add("--fps", type=float, help="of the file; the model knows 16")
    add("--out", type=Path, help="the mp4, or a folder (default: here; with --list: kaleido-clips)")
    add("--overwrite", action="store_true", help="write over existing files")
    eight = (
        "multiply in eight bits: less memory and time, small errors; fp8_accurate adds up in float32, slower than fp8"
    )
    add("--eight-bit", choices=FORMATS, help=eight)
    add("--attention", choices=KERNELS, help="default: auto, the fastest exact kernel; sage has small errors")
    compiled = (
        "blocks by torch.compile: other roundings, half as much memory again beside the weights, no gain on an H200"
    )
    add("--compile", action="store_true", default=None, help=compiled)
    add("--vae-dtype", choices=VAE_DTYPES, help="default: fp32; bf16 takes half the memory, with small errors")
    vram = "of the card, to stay within (no more than is free there); auto, the default: all that is free"
    add("--vram", type=memory_size_or_auto, metavar="auto|12GiB", help=vram)
    add("--device", help="cpu, cuda, cuda:1, mps (default: cuda where there is one)")
    add("--allow-extra-references", action="store_true", default=None, help="more than three, untrained")
    add("--official-text", action="store_true", default=None, help="encode prompt@@paths whole, as the official script")
    add("--clean-references", action="store_true", default=None, help="turn upright (EXIF), transparency to white")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    record = files.read_record(arguments.replay) if arguments.replay else None
    jobs = jobs_of(arguments, record)
    # All that can be refused is refused before the model is loaded.
    for job in jobs:
        _ = job.request.size
        check_reference_count(len(job.references), job.request.allow_extra_references)
        files.open_references(job.references)
        if not arguments.overwrite:
            files.check_free(job.out)
    for job in jobs:
        _make_folder(job.out.parent)

    device = _device(arguments.device)
    print(f"loading {jobs[0].request.model} on {device}", file=sys.stderr)
    cap(device, arguments.vram)
    models = load_models(jobs[0].request, device, arguments.vram)
    if models.placement.room is not None:
        print(f"within {models.placement.room / GIB:.1f} GiB: the parts take turns on {device}", file=sys.stderr)
    same = True
    for job in jobs:
        result = _render(models, job)
        made = files.record_of(job, result.latent, device)
        files.write_outputs(job, result, made)
        print("\n".join(map(str, files.outputs_of(job.out))))
        same = record is None or _tell_replay(record, made)
    return DONE if same else DIFFERS


def cap(device: str, room: int | None) -> None:
    """Have torch refuse more of a graphics card than ``room`` bytes: what then runs out steps down."""
    card = torch.device(device)
    if room is not None and card.type == "cuda":
        total = torch.cuda.get_device_properties(card).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, room / total), with_index(card))


def _make_folder(folder: Path) -> None:
    """Make the folder of a clip, and see that it can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"{folder} takes no files ({error.strerror}); clips need a folder. Choose another --out."
        ) from error


def _device(name: str | None) -> str:
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.ones(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"--device {name}: this torch does not offer it; cpu always works. Leave --device out."
        ) from error
    return name


def _render(models: Models, job: Job) -> Result:
    steps = speed_of(job.request.speed).steps_of(job.request.steps)
    with tqdm(total=steps, desc=job.out.name, unit="step", file=sys.stderr) as bar:

        def show_step(step: Step) -> None:
            if step.index < bar.n:
                bar.reset()  # memory ran out, and sampling begins again with less of the model on the card
            bar.update()

        def show_stage(stage: str) -> None:
            bar.set_postfix_str(stage)
            bar.unpause()  # so that the time left counts the steps' own time only

        return render(models, job.request, files.open_references(job.references), show_step, show_stage)


def _tell_replay(before: Record, now: Record) -> bool:
    if not before.latent_sha256:
        print("replay: made with the same settings; the first clip's latent was not recorded to compare with")
        return True
    if before.latent_sha256 == now.latent_sha256:
        print("replay: identical latent")
        return True
    print(
        f"replay: the latent differs. It was made with Kaleido {before.kaleido}, torch {before.torch} on "
        f"{before.device}; this is Kaleido {now.kaleido}, torch {now.torch} on {now.device}. Only the same weights, "
        "versions and kind of device give the same bits.",
        file=sys.stderr,
    )
    return False
