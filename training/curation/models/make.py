"""Models by name: "nanodet" lies in the folder of models, "sam2:PATH" wherever a user has put it."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from kaleido_core.errors import ConfigError

from .kinds import Captioner, Detector, Embedder, FaceModel, ImageText, Inpainter, Segmenter, TextFinder
from .telea import Telea
from .template import Template

T = TypeVar("T")


def _choose(kind: str, spec: str, folder: Path, known: dict[str, Callable[[Path], T]]) -> T:
    name, _, path = spec.partition(":")
    if name not in known:
        raise ConfigError(f"models.{kind} = {spec!r} is unknown; known are {', '.join(known)}. Choose one of these.")
    return known[name](Path(path) if path else folder / name)


def _at(module: str, name: str) -> Callable[[Path], Any]:
    """The class ``name`` of a file beside this one, imported when a model is made."""
    return lambda folder: getattr(import_module(f".{module}", __package__), name)(folder)


def detector(spec: str, folder: Path) -> Detector:
    return _choose(
        "detector",
        spec,
        folder,
        {
            "nanodet": _at("nanodet", "NanoDet"),
            "nanodet-whole": _at("nanodet", "NanoDetWhole"),
            "grounding-dino": _at("grounding_dino", "GroundingDino"),
        },
    )


def segmenter(spec: str, folder: Path) -> Segmenter:
    return _choose("segmenter", spec, folder, {"u2netp": _at("u2netp", "U2Netp"), "sam2": _at("sam2", "Sam2")})


def embedder(spec: str, folder: Path) -> Embedder:
    return _choose(
        "embedder",
        spec,
        folder,
        {"efficientnet": _at("efficientnet", "EfficientNet"), "dino": _at("dino", "Dino"), "clip": _at("clip", "Clip")},
    )


def faces(spec: str, folder: Path) -> FaceModel:
    return _choose(
        "faces",
        spec,
        folder,
        {
            "dlib": _at("dlib_faces", "DlibFaces"),
            "centerface": _at("centerface", "CenterFace"),
            "arcface": _at("arcface", "ArcFace"),
        },
    )


def text(spec: str, folder: Path) -> TextFinder:
    return _choose("text", spec, folder, {"rapidocr": _at("rapidocr", "RapidOCR")})


def captioner(spec: str, folder: Path, finds: Callable[[], Detector]) -> Captioner:
    """``finds`` makes the detector that the template asks."""
    return _choose(
        "captioner",
        spec,
        folder,
        {"template": lambda _: Template(finds), "transformers": _at("vision_language", "VisionLanguage")},
    )


def image_text(spec: str, folder: Path) -> ImageText:
    return _choose("image_text", spec, folder, {"conse": _at("conse", "ConSE"), "clip": _at("clip", "Clip")})


def inpainter(spec: str, folder: Path) -> Inpainter:
    return _choose("inpainter", spec, folder, {"telea": lambda _: Telea(), "diffusers": _at("diffusion", "Diffusion")})
