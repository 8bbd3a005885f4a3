"""``python -m kaleido_core generate | convert | info | plan``: a file for each. Only these print."""

import argparse
import logging
import sys
from collections.abc import Sequence

from ..errors import KaleidoError
from . import convert, generate, info, plan
from .exit_codes import INTERRUPTED, REFUSED


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 1 a replay came out different, 2 refused, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", level="INFO" if arguments.verbose else "WARNING")
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
    verbose = "before the command: say which files are read, which attention is taken, how many blocks stay"
    parser.add_argument("-v", "--verbose", action="store_true", help=verbose)
    commands = parser.add_subparsers(required=True, metavar="generate | convert | info | plan")
    generate.add_options(commands.add_parser("generate", help="make a clip from a prompt and reference images"))
    convert.add_options(commands.add_parser("convert", help="rewrite a checkpoint as one safetensors file"))
    info.add_options(commands.add_parser("info", help="tell what a checkpoint holds"))
    plan.add_options(commands.add_parser("plan", help="tell whether a clip of the 14B model fits a graphics card"))
    return parser
