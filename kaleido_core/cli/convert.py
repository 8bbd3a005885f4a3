"""``convert``: a checkpoint in any layout we read, rewritten as one safetensors file."""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from ..checkpoints.convert import DTYPES, convert
from ..checkpoints.lora import read_lora
from ..errors import ConfigError
from .exit_codes import DONE


def add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", type=Path, help="a checkpoint file or folder")
    command.add_argument("target", type=Path, help="the .safetensors file to write")
    command.add_argument("--dtype", choices=DTYPES, default="bf16", help="default: %(default)s")
    lora = "merge it into the weights; repeat for more"
    command.add_argument("--lora", action="append", dest="loras", default=[], metavar="FILE[:STRENGTH]", help=lora)
    known = argparse.BooleanOptionalAction
    command.add_argument("--kaleido", action=known, help="what a file in Wan's naming cannot say itself")
    command.add_argument("--overwrite", action="store_true", help="write over an existing file")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    target: Path = arguments.target
    if target.exists() and not arguments.overwrite:
        raise ConfigError(f"{target} exists already; nothing is written over. Choose another name or add --overwrite.")
    loras = [read_lora(given) for given in arguments.loras]
    with tqdm(desc=target.name, unit="tensor", file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        convert(arguments.source, target, arguments.dtype, show, arguments.kaleido, loras)
    print(target)
    return DONE
