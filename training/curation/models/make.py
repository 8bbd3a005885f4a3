"""Models by name: "nanodet" lies in the folder of models, "sam2:PATH" wherever a user has put it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from kaleido_core.errors import ConfigError

from .kinds import Captioner, Detector, Embedder, FaceModel, ImageText, Inpainter, Segmenter, TextFinder

T = TypeVar("T")


def _choose(kind: str, spec: str, folder: Path, known: dict[str, Callable[[Path], T]]) -> T:
    name, _, path = spec.partition(":")
    if name not in known:
        raise ConfigError(f"models.{kind} = {spec!r} is unknown; known are {', '.join(known)}. Choose one of these.")
    return known[name](Path(path) if path else folder / name)


def _nanodet(folder: Path) -> Detector:
    from .nanodet import NanoDet

    return NanoDet(folder)


def _u2netp(folder: Path) -> Segmenter:
    from .u2netp import U2Netp

    return U2Netp(folder)


def _efficientnet(folder: Path) -> Embedder:
    from .efficientnet import EfficientNet

    return EfficientNet(folder)


def _dlib(folder: Path) -> FaceModel:
    from .dlib_faces import DlibFaces

    return DlibFaces(folder)


def _rapidocr(folder: Path) -> TextFinder:
    from .rapidocr import RapidOCR

    return RapidOCR(folder)


def _telea(folder: Path) -> Inpainter:
    from .telea import Telea

    return Telea()


def _template(detector: Callable[[], Detector], folder: Path) -> Captioner:
    from .template import Template

    return Template(detector)


def detector(spec: str, folder: Path) -> Detector:
    return _choose("detector", spec, folder, {"nanodet": _nanodet})


def segmenter(spec: str, folder: Path) -> Segmenter:
    return _choose("segmenter", spec, folder, {"u2netp": _u2netp})


def embedder(spec: str, folder: Path) -> Embedder:
    return _choose("embedder", spec, folder, {"efficientnet": _efficientnet})


def faces(spec: str, folder: Path) -> FaceModel:
    return _choose("faces", spec, folder, {"dlib": _dlib})


def text(spec: str, folder: Path) -> TextFinder:
    return _choose("text", spec, folder, {"rapidocr": _rapidocr})


def captioner(spec: str, folder: Path, finds: Callable[[], Detector]) -> Captioner:
    """``finds`` makes the detector that the template asks."""
    return _choose("captioner", spec, folder, {"template": partial(_template, finds)})


def image_text(spec: str, folder: Path) -> ImageText:
    return _choose("image_text", spec, folder, {})


def inpainter(spec: str, folder: Path) -> Inpainter:
    return _choose("inpainter", spec, folder, {"telea": _telea})
