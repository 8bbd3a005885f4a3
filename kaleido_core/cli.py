"""``python -m kaleido_core generate | convert | info | plan``: the only part of the core that prints."""

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from . import request_files as files
from .checkpoints.convert import DTYPES, convert
from .checkpoints.info import describe
from .dit.attention import KERNELS
from .errors import ConfigError, KaleidoError
from .generate import DEFAULTS_14B, Models, Request, Result, defaults_for, load_models, render
from .offloading.memory_plan import GIB, WEIGHT_BYTES, Machine, Work, plan_memory
from .quantization.quantize import FORMATS
from .request_files import Job, Record
from .sampling.speed import SPEEDS
from .shapes import Step, VideoSize, check_reference_count

DONE, DIFFERS, REFUSED, INTERRUPTED = 0, 1, 2, 130
# What a replay takes from the clip itself, and what may lie elsewhere by now.
SETTINGS = ("size", "frames", "steps", "cfg", "shift", "seed", "negative", "fps", "official_text")
SETTINGS += ("speed", "eight_bit", "attention", "clean_references", "allow_extra_references")
WEIGHTS = ("model", "vae", "text_encoder", "tokenizer")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 1 a replay came out different, 2 refused, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        return arguments.run(arguments)
    except KaleidoError as error:
        print(f"kaleido: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("\nkaleido: stopped; no partial file was left.", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kaleido_core", description="Subject-to-video with Kaleido.")
    commands = parser.add_subparsers(required=True, metavar="generate | convert | info | plan")
    _add_generate(commands.add_parser("generate", help="make a clip from a prompt and reference images"))

    command = commands.add_parser("convert", help="rewrite a checkpoint as one safetensors file")
    command.add_argument("source", type=Path, help="a checkpoint file or folder")
    command.add_argument("target", type=Path, help="the .safetensors file to write")
    command.add_argument("--dtype", choices=DTYPES, default="bf16", help="default: %(default)s")
    known = argparse.BooleanOptionalAction
    command.add_argument("--kaleido", action=known, help="what a file in Wan's naming cannot say itself")
    command.add_argument("--overwrite", action="store_true", help="write over an existing file")
    command.set_defaults(run=_convert)

    command = commands.add_parser("info", help="tell what a checkpoint holds")
    command.add_argument("path", help='a checkpoint file or folder, or "tiny"')
    command.set_defaults(run=_info)

    command = commands.add_parser("plan", help="tell whether a clip of the 14B model fits a graphics card")
    command.add_argument("--size", default="landscape", help="landscape, portrait, square or WxH in pixels")
    command.add_argument("--frames", type=int, default=DEFAULTS_14B.frames)
    command.add_argument("--references", type=int, default=3)
    command.add_argument("--steps", type=int, default=DEFAULTS_14B.steps)
    command.add_argument("--cfg", type=float, default=DEFAULTS_14B.cfg, help="1 halves the work")
    command.add_argument("--weights", choices=WEIGHT_BYTES, default="bf16")
    command.add_argument("--vram", type=float, required=True, help="GiB of the card")
    command.add_argument("--ram", type=float, required=True, help="GiB of main memory")
    command.set_defaults(run=_plan)
    return parser


def _add_generate(command: argparse.ArgumentParser) -> None:
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
    add("--shift", type=float, help="more than 1 spends more steps on the layout")
    add("--seed", type=int, help="default: 0")
    add("--negative", metavar="TEXT", help="what to keep away from")
    add("--speed", choices=SPEEDS, help="default: exact; the others change the clip a little and take less time")
    add("--fps", type=float, help="of the file; the model knows 16")
    add("--out", type=Path, help="the mp4, or a folder (default: here; with --list: kaleido-clips)")
    add("--overwrite", action="store_true", help="write over existing files")
    add("--eight-bit", choices=FORMATS, help="multiply in eight bits: less memory and time, small errors")
    add("--attention", choices=KERNELS, help="default: auto, the fastest exact kernel; sage has small errors")
    add("--vram", type=float, metavar="GIB", help="of the card, to stay within (default: all that is free)")
    add("--device", help="cpu, cuda, cuda:1, mps (default: cuda where there is one)")
    add("--allow-extra-references", action="store_true", default=None, help="more than three, untrained")
    add("--official-text", action="store_true", default=None, help="encode prompt@@paths whole, as the official script")
    add("--clean-references", action="store_true", default=None, help="turn upright (EXIF), transparency to white")
    command.set_defaults(run=_generate)


def _generate(arguments: argparse.Namespace) -> int:
    record = files.read_record(arguments.replay) if arguments.replay else None
    jobs = _jobs(arguments, record)
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
    models = load_models(jobs[0].request, device, None if arguments.vram is None else int(arguments.vram * GIB))
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


def _jobs(arguments: argparse.Namespace, record: Record | None) -> list[Job]:
    if record:
        given = [name for name in SETTINGS if getattr(arguments, name) is not None]
        if given:
            raise ConfigError(
                f"--replay and --{given[0].replace('_', '-')}: a replay takes its settings from the clip. "
                "Leave that out, or give --prompt and all settings instead of --replay."
            )
        references = files.find_recorded(record, arguments.replay.parent, arguments.reference)
        moved = {name: getattr(arguments, name) for name in WEIGHTS if getattr(arguments, name) is not None}
        moved |= {"loras": tuple(arguments.loras)} if arguments.loras else {}
        return [Job(replace(record.request, **moved), references, _single_out(arguments.out))]
    if arguments.list:
        return _listed_jobs(arguments)
    request = _request(arguments, arguments.prompt, tuple(arguments.reference))
    if not arguments.prompt.strip() and not arguments.reference:
        raise ConfigError("no prompt and no reference: the model needs at least one. Describe the clip.")
    references = tuple(files.find_reference(given) for given in arguments.reference)
    return [Job(request, references, _single_out(arguments.out))]


def _listed_jobs(arguments: argparse.Namespace) -> list[Job]:
    if arguments.reference:
        raise ConfigError("--list and --reference: each line names its own images. Write prompt@@image in the file.")
    folder = arguments.out or Path("kaleido-clips")
    if folder.suffix or folder.is_file():
        raise ConfigError(f"--out {folder}: a list makes many clips and needs a folder. Name one without a suffix.")
    beside = arguments.list.parent
    lines = files.read_list(arguments.list)
    digits = max(3, len(str(lines[-1].number)))
    return [
        Job(
            request=_request(arguments, line.prompt, line.references),
            references=tuple(files.find_reference(given, beside / given) for given in line.references),
            out=folder / f"{line.number:0{digits}}.mp4",  # by line, so that list and clips can be told together
        )
        for line in lines
    ]


def _single_out(out: Path | None) -> Path:
    if out is None or out.is_dir():
        return files.next_free(out or Path())
    if out.suffix.lower() != ".mp4":
        raise ConfigError(f"--out {out}: a clip is an .mp4. Name it so, or name an existing folder.")
    return out


def _request(arguments: argparse.Namespace, prompt: str, references: tuple[str, ...]) -> Request:
    model = arguments.model or "tiny"
    defaults = defaults_for(model)
    height, width = files.parse_size(arguments.size, defaults) if arguments.size else (defaults.height, defaults.width)

    def chosen(name: str):
        value = getattr(arguments, name)
        return getattr(defaults, name) if value is None else value

    return Request(
        prompt=prompt,
        references=references,
        model=model,
        vae=arguments.vae,
        text_encoder=arguments.text_encoder,
        tokenizer=arguments.tokenizer,
        height=height,
        width=width,
        frames=chosen("frames"),
        steps=chosen("steps"),
        cfg=chosen("cfg"),
        shift=chosen("shift"),
        seed=arguments.seed or 0,
        negative=chosen("negative"),
        fps=chosen("fps"),
        attach_paths=bool(arguments.official_text),
        clean_references=bool(arguments.clean_references),
        allow_extra_references=bool(arguments.allow_extra_references),
        speed=arguments.speed or "exact",
        eight_bit=arguments.eight_bit,
        attention=arguments.attention or "auto",
        loras=tuple(arguments.loras or ()),
    )


def _render(models: Models, job: Job) -> Result:
    with tqdm(total=job.request.steps, desc=job.out.name, unit="step", file=sys.stderr) as bar:

        def show_step(step: Step) -> None:
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


def _convert(arguments: argparse.Namespace) -> int:
    target: Path = arguments.target
    if target.exists() and not arguments.overwrite:
        raise ConfigError(f"{target} exists already; nothing is written over. Choose another name or add --overwrite.")
    with tqdm(desc=target.name, unit="tensor", file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        convert(arguments.source, target, arguments.dtype, show, arguments.kaleido)
    print(target)
    return DONE


def _info(arguments: argparse.Namespace) -> int:
    print(describe(arguments.path))
    return DONE


def _plan(arguments: argparse.Namespace) -> int:
    size = VideoSize(arguments.frames, *files.parse_size(arguments.size, DEFAULTS_14B))
    forwards = arguments.steps * (1 if arguments.cfg == 1 else 2)
    work = Work(size, arguments.references, forwards, weight_bytes=WEIGHT_BYTES[arguments.weights])
    print(plan_memory(work, Machine(arguments.vram * GIB, arguments.ram * GIB)).text)
    return DONE
