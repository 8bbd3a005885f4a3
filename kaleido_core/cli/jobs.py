"""From the arguments of ``generate`` to the clips to make."""

import argparse
from dataclasses import replace
from pathlib import Path

from .. import request_files as files
from ..errors import ConfigError
from ..request import Request, defaults_for
from ..request_files import Job, Record

# What a replay takes from the clip itself, and what may lie elsewhere by now.
SETTINGS = ("size", "frames", "steps", "cfg", "reference_cfg", "shift", "seed", "negative", "fps", "official_text")
SETTINGS += ("speed", "eight_bit", "attention", "vae_dtype", "compile", "clean_references", "allow_extra_references")
WEIGHTS = ("model", "vae", "text_encoder", "tokenizer")


def jobs_of(arguments: argparse.Namespace, record: Record | None) -> list[Job]:
    """One job, or one for each line of a list; with a ``record``, its clip again. Raises ``ConfigError``."""
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
        reference_cfg=chosen("reference_cfg"),
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
        vae_dtype=arguments.vae_dtype or "fp32",
        loras=tuple(arguments.loras or ()),
        compile=bool(arguments.compile),
    )
