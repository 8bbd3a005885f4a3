"""What was trained, as files that ComfyUI, this project and the official code load.

``python -m training.export RUN OUT.safetensors`` writes a LoRA, or fully trained weights; with ``--merge BASE`` a LoRA
is added to the weights of BASE. ``--format official`` writes a folder for the official code.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from json import dumps, loads
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from kaleido_core.checkpoints.convert import DTYPES, TORCH_DTYPES, Dtype, convert
from kaleido_core.checkpoints.load import model_path
from kaleido_core.checkpoints.lora import Lora
from kaleido_core.checkpoints.official import write_official
from kaleido_core.checkpoints.save import save_weights
from kaleido_core.checkpoints.sizes import METADATA_KEY
from kaleido_core.checkpoints.source import WeightSource, open_source
from kaleido_core.errors import CheckpointError, ConfigError, KaleidoError
from kaleido_core.request_files import VERSION

LORA_FILE, MODEL_FILE = "lora.safetensors", "model.safetensors"  # in a checkpoint's folder
UNFINISHED = ".tmp"  # ends the name of a checkpoint's folder until it is whole
PREFIXES = {"comfyui": "diffusion_model.", "wan": ""}
FORMATS = (*PREFIXES, "official")
DONE, REFUSED = 0, 2


@dataclass(frozen=True)
class Origin:
    """How a LoRA was made. ``dataset`` is the SHA-256 of what it learned from, ``base_model`` a file's name."""

    base_model: str = ""
    steps: int = 0
    dataset: str = ""
    trigger_words: tuple[str, ...] = ()


def save_lora(path: Path, state: Mapping[str, Tensor], origin: Origin, prefix: str = PREFIXES["comfyui"]) -> None:
    """Write what ``lora_state`` gives as a file that ComfyUI's own LoRA loaders take."""
    ranks = {len(value) for name, value in state.items() if name.endswith("lora_A.weight")}
    alphas = {float(value) for name, value in state.items() if name.endswith(".alpha")}
    if len(ranks) != 1 or len(alphas) != 1:
        raise CheckpointError(
            f"A LoRA with ranks {sorted(ranks)} and alphas {sorted(alphas)}: one of each is needed. "
            "Pass what lora_state gives."
        )
    rank, alpha = ranks.pop(), alphas.pop()
    entry = {"format": 1, "architecture": "kaleido-lora", "version": VERSION, "rank": rank, "alpha": alpha}
    metadata = {
        "format": "pt",
        METADATA_KEY: dumps({**entry, **asdict(origin)}, ensure_ascii=False),
        "ss_network_dim": str(rank),  # what LoRA managers show
        "ss_network_alpha": f"{alpha:g}",
    }
    if origin.trigger_words:
        metadata["modelspec.trigger_phrase"] = ", ".join(origin.trigger_words)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, {prefix + name: value for name, value in state.items()}, metadata)


def read_origin(source: WeightSource) -> Origin:
    """What ``save_lora`` wrote of it; ``CheckpointError`` for any other file."""
    try:
        entry = loads(source.metadata[METADATA_KEY])
        return Origin(entry["base_model"], entry["steps"], entry["dataset"], tuple(entry["trigger_words"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source.path} is no LoRA of a run of ours ({error!r}). Name a run's folder.") from error


def find_weights(run: Path) -> Path:
    """In a run's or a checkpoint's folder the LoRA with the most steps, or the last whole weights; else ``run``.

    Not what is being written, or was when a run was killed.
    """

    def found(name: str) -> list[Path]:
        return [path for path in run.rglob(name) if path.parent.suffix != UNFINISHED]

    loras = sorted(found(LORA_FILE))
    if loras:
        return max(loras, key=lambda path: read_origin(open_source(path)).steps)
    models = sorted(found(MODEL_FILE), key=lambda path: path.stat().st_mtime)
    return models[-1] if models else run


def is_lora(path: Path) -> bool:
    return any(key.endswith("lora_A.weight") for key in open_source(path).infos)


def export_lora(found: Path, out: Path, dtype: Dtype, form: str, trigger_words: Sequence[str] = ()) -> None:
    """A LoRA alone, in ComfyUI's or in Wan's names."""
    if form not in PREFIXES or dtype == "fp8_scaled":
        raise ConfigError(
            f"A LoRA as {form}, {dtype}: alone it is written as {' or '.join(PREFIXES)}, in bf16, fp16 or fp32. "
            "Add --merge BASE for whole weights."
        )
    source = open_source(found)
    origin = read_origin(source)
    state = {
        key.removeprefix(PREFIXES["comfyui"]): source.read(key).to(
            torch.float32 if key.endswith(".alpha") else TORCH_DTYPES[dtype]
        )
        for key in source.infos
    }
    save_lora(out, state, replace(origin, trigger_words=tuple(trigger_words) or origin.trigger_words), PREFIXES[form])


def export_model(
    source: Path, out: Path, dtype: Dtype, form: str, loras: Sequence[Lora] = (), kaleido: bool | None = None
) -> None:
    """Whole weights, tensor by tensor, with ``loras`` added. ComfyUI's names are Wan's here."""
    if form == "official":
        write_official(source, out, dtype, loras)
        return
    with tqdm(desc=out.name, unit="tensor", file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        convert(source, out, dtype, show, kaleido, loras)


def export(arguments: argparse.Namespace) -> None:
    if arguments.out.exists() and not arguments.overwrite:
        raise ConfigError(f"{arguments.out} exists already; nothing is written over. Add --overwrite or rename.")
    found, dtype, form = find_weights(arguments.run), arguments.dtype, arguments.format
    if not is_lora(found):
        if arguments.merge:
            raise ConfigError(f"{found} holds whole weights; only a LoRA is merged. Leave --merge out.")
        export_model(found, arguments.out, dtype, form, kaleido=arguments.kaleido)
    elif arguments.merge:
        loras = [Lora(found, arguments.strength)]
        export_model(model_path(arguments.merge, "dit"), arguments.out, dtype, form, loras, arguments.kaleido)
    else:
        export_lora(found, arguments.out, dtype, form, arguments.trigger)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 2 refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run, one of its checkpoints, or a file")
    parser.add_argument("out", type=Path, help="the .safetensors file, or for official the folder, to write")
    parser.add_argument("--merge", metavar="BASE", help='add the LoRA to these weights: a file, a folder or "tiny"')
    parser.add_argument("--strength", type=float, default=1.0, help="of the LoRA, with --merge")
    parser.add_argument("--format", choices=FORMATS, default="comfyui")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="default: %(default)s")
    parser.add_argument("--trigger", action="append", default=[], metavar="WORD", help="for captions; repeatable")
    known = argparse.BooleanOptionalAction
    parser.add_argument("--kaleido", action=known, help="what whole weights in Wan's naming cannot say themselves")
    parser.add_argument("--overwrite", action="store_true", help="write over an existing file")
    arguments = parser.parse_args(argv)
    try:
        export(arguments)
    except KaleidoError as error:
        print(f"kaleido: {error}", file=sys.stderr)
        return REFUSED
    print(arguments.out)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
