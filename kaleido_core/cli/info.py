"""``info``: what a checkpoint holds."""

import argparse

from ..checkpoints.info import describe
from .exit_codes import DONE


def add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("path", help='a checkpoint file or folder, or "tiny"')
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    print(describe(arguments.path))
    return DONE
