"""Encode a data set once: clips, references and captions become files of latents that training reads again and again.

``[torchrun --nproc-per-node N -m] training.cache MANIFEST CACHE [--weights DIR] [--sizes 896x512x81,...]``. MANIFEST is
a ``manifest.jsonl`` or a folder in the official layout (videos/ labels/ references/). Kill it at any time and give the
command again: what is done is skipped, and no file is ever half written. Records that cannot be read are named in
``CACHE/problems.jsonl`` (of several ranks, ``CACHE/RANK-problems.jsonl``), and left out.
"""

import argparse
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kaleido_core.errors import DataError, KaleidoError

from .data.encoder import Encoders, Look, Pixels, load_encoders, read_pixels
from .data.frames import read_sizes
from .data.record import RESERVED, Record, read_records

logger = logging.getLogger("kaleido.training")

VERSION = "3"  # of how a record becomes tensors; another one encodes all of them again
PROBLEMS = "problems.jsonl"
DONE, REFUSED, DAMAGED, STOPPED = 0, 2, 3, 130


@dataclass(frozen=True)
class Origin:
    """What a file was made with; a file is up to date if that is the same."""

    look: Look
    vae: str
    text_encoder: str
    context_rows: int

    def metadata(self, record: Record, weights: Sequence[Sequence[float]]) -> dict[str, str]:
        return {
            "format": "kaleido-cache",
            "made_with": self.key(record),
            "vae": self.vae,
            "text_encoder": self.text_encoder,
            "version": VERSION,
            "context_rows": str(self.context_rows),
            "weights": json.dumps(weights),
        }

    def key(self, record: Record) -> str:
        """SHA-256 of all that the tensors depend on: scores may change, and the data set may move."""
        subjects = [
            [(stamp(picture.path), picture.mask and stamp(picture.mask), picture.weight) for picture in subject]
            for subject in record.subjects
        ]
        clip = stamp(record.video), record.t0, record.t1
        told = json.dumps([VERSION, record.caption, clip, subjects, asdict(self)])
        return hashlib.sha256(told.encode()).hexdigest()


def stamp(path: str) -> tuple[str | int, ...]:
    """Name, bytes and date of a file; of a missing one the name."""
    try:
        told = os.stat(path)
    except OSError:
        return (Path(path).name,)
    return Path(path).name, told.st_size, told.st_mtime_ns


def fingerprint(*parts: torch.nn.Module) -> str:
    """Short SHA-256 of some of every weight: other weights give another one."""
    digest = hashlib.sha256()
    for part in parts:
        for name, value in part.state_dict().items():
            digest.update(name.encode())
            digest.update(value.flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def build_cache(
    records: Sequence[Record], folder: Path, encoders: Encoders, look: Look, workers: int = 2
) -> list[tuple[str, str]]:
    """Encode what is not there yet; ``(id, problem)`` of each record that could not be. Reading goes on ahead."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = encoders.tokenizer.length
    origin = Origin(look, fingerprint(encoders.vae), fingerprint(encoders.text_encoder), rows)
    write(folder / f"{RESERVED}.safetensors", {"context": encoders.context("")}, {"context_rows": str(rows)})
    keys = {record.id: origin.key(record) for record in records}
    waiting = [record for record in records if made_with(folder / f"{record.id}.safetensors") != keys[record.id]]
    for left in (path for record in waiting for path in folder.glob(f"{record.id}.safetensors.*.part")):
        left.unlink()  # of a run that was killed
    logger.info("%d records to encode, %d are cached already", len(waiting), len(records) - len(waiting))
    problems, began = [], time.monotonic()
    for number, (record, future) in enumerate(ahead(waiting, look, workers), start=1):
        try:
            pixels = future.result()
            write(folder / f"{record.id}.safetensors", encoders.encode(pixels), origin.metadata(record, pixels.weights))
        except DataError as error:
            logger.warning("left out %s: %s", record.id, error)
            problems.append((record.id, str(error)))
            # What was encoded before the record changed is not what was asked for.
            (folder / f"{record.id}.safetensors").unlink(missing_ok=True)
        show(number, len(waiting), time.monotonic() - began)
    return problems


def ahead(records: Sequence[Record], look: Look, workers: int) -> Iterator[tuple[Record, Future[Pixels]]]:
    """Records with what is read of them, a few being read while one is encoded."""
    with ThreadPoolExecutor(workers, "kaleido-cache") as pool:
        waiting = iter(records)
        running = [(record, pool.submit(read_pixels, record, look)) for record in islice(waiting, workers + 1)]
        try:
            while running:
                yield running.pop(0)
                running += [(record, pool.submit(read_pixels, record, look)) for record in islice(waiting, 1)]
        finally:
            pool.shutdown(cancel_futures=True)


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """The file appears under its name only when it is whole."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise KaleidoError(f"{path} cannot be written ({error}). Make room, and give the command again.") from error


def made_with(path: Path) -> str:
    """What the file says of its making; "" for none, or one that cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("made_with", "")
    except (OSError, SafetensorError):
        return ""


def show(done: int, total: int, seconds: float) -> None:
    left = round(seconds / done * (total - done))
    clock = f"{left // 3600}:{left % 3600 // 60:02}:{left % 60:02}"
    logger.info("%d/%d, %.1f s each, %s left", done, total, seconds / done, clock)


def tell_strangers(folder: Path, records: Sequence[Record]) -> None:
    """Warn of files that training will read though no record asks for them."""
    known = {RESERVED, *(record.id for record in records)}
    strangers = sorted(path.name for path in folder.glob("*.safetensors") if path.stem not in known)
    if strangers:
        listed = ", ".join(strangers[:3]) + (", ..." if len(strangers) > 3 else "")
        logger.warning("%d files belong to no record; training reads them, too: %s", len(strangers), listed)


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="manifest.jsonl, or a folder with videos/ labels/ references/")
    parser.add_argument("cache", type=Path, help="folder to write to")
    parser.add_argument("--weights", default="tiny", help='"tiny", or a folder with autoencoder and text encoder')
    parser.add_argument("--vae", default="", help="where it is not in that folder")
    parser.add_argument("--text-encoder", default="")
    parser.add_argument("--tokenizer", default="")
    parser.add_argument(
        "--sizes", default="896x512x81", help="width x height x frames; each clip takes the nearest shape"
    )
    parser.add_argument("--rule", choices=["by_time", "official"], default="by_time", help="which frames are taken")
    parser.add_argument("--copies", type=int, default=0, help="varied copies of each reference picture")
    parser.add_argument("--workers", type=int, default=2, help="clips read ahead")
    return parser.parse_args(argv)


def encode_all(arguments: argparse.Namespace, rank: int, ranks: int) -> list[tuple[str, str]]:
    """This rank's records; what ``build_cache`` says of them, also as a file."""
    look = Look(read_sizes(arguments.sizes), arguments.rule, arguments.copies)
    records = read_records(arguments.manifest)
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    largest = max(look.sizes, key=lambda size: size.frames * size.height * size.width)
    places = arguments.weights, arguments.vae, arguments.text_encoder, arguments.tokenizer
    encoders = load_encoders(*places, largest, device)
    problems = build_cache(records[rank::ranks], arguments.cache, encoders, look, arguments.workers)
    lines = [json.dumps({"id": name, "problem": problem}) + "\n" for name, problem in problems]
    path = arguments.cache / (PROBLEMS if ranks == 1 else f"{rank}-{PROBLEMS}")
    path.write_text("".join(lines), encoding="utf-8")
    if problems:
        logger.warning("%d records left out; %s names them", len(problems), path)
    if rank == 0:
        tell_strangers(arguments.cache, records)
    return problems


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 2 refused, 3 done but for records that are named, 130 interrupted."""
    arguments = read_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rank, ranks = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    try:
        return DAMAGED if encode_all(arguments, rank, ranks) else DONE
    except KaleidoError as error:
        print(f"kaleido: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        logger.warning("Interrupted; the same command goes on from here.")
        return STOPPED


if __name__ == "__main__":
    sys.exit(main())
