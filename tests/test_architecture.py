"""The arrows of the design: they never turn back."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "kaleido_core"
RINGS = ("kaleido_core", "nodes", "training")

# Each may import only what stands to its left; names in one set do not import one another.
ORDER = (
    {"errors", "row_kernels"},
    {"config", "rowwise"},
    {"shapes"},
    {
        "dit",
        "vae",
        "text",
        "references",
        "sampling",
        "quantization",
        "parallel",
        "video",
        "contact_sheet",
    },
    {"offloading"},  # its plan asks the autoencoder's own counts
    {"checkpoints", "placement"},
    {"request"},
    {"generate"},
    {"request_files"},
    {"cli"},
    {"__init__", "__main__"},
)
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
EVERYWHERE = {"torch", "einops", "safetensors", "numpy"}
SPECIAL = {
    "references": {"PIL"},
    "video": {"PIL", "imageio_ffmpeg"},
    "contact_sheet": {"PIL"},
    "generate": {"PIL"},
    "request_files": {"PIL"},
    "text": {"ftfy", "sentencepiece"},
    "dit": {"sageattention"},
    "row_kernels": {"triton"},  # where it is installed
    "quantization": {"triton"},
    "vae": {"triton"},
    "cli": {"tqdm"},
}
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 50


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def area_of(path: Path) -> str:
    """The name that a module has in ``ORDER``: its file or folder directly inside the core."""
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(level, dotted name) of everything a file imports: level 0 is absolute."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.level, node.module
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, alias.name) for alias in node.names)


def core_areas(path: Path) -> Iterator[str]:
    """The areas of the core that a core file reaches through its relative imports."""
    package = path.relative_to(CORE).parts[:-1]
    for level, module in imports(path):
        if level:
            base = package[: len(package) - level + 1]
            yield (*base, *module.split("."))[0]


def calls(path: Path, name: str) -> list[ast.Call]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


@pytest.mark.parametrize("path", sources("kaleido_core"), ids=names(sources("kaleido_core")))
def test_the_core_imports_only_what_stands_to_its_left(path: Path):
    area = area_of(path)
    assert area in LEVEL, f"{area} is new: give it a place in ORDER"
    for other in core_areas(path):
        assert other == area or LEVEL[other] < LEVEL[area], f"{area} imports {other}"


@pytest.mark.parametrize("path", sources("kaleido_core"), ids=names(sources("kaleido_core")))
def test_the_core_knows_itself_by_relative_imports_and_few_strangers(path: Path):
    strangers = {module.split(".")[0] for level, module in imports(path) if not level}
    allowed = EVERYWHERE | SPECIAL.get(area_of(path), set()) | set(sys.stdlib_module_names)
    assert strangers <= allowed


def test_training_knows_the_core_and_never_comfyui_or_the_nodes():
    for path in sources("training"):
        for level, module in imports(path):
            assert level or module.split(".")[0] not in {"comfy", "comfy_api", "nodes", "folder_paths"}, path
            assert level < 2 or "kaleido_core" not in module, f"{path}: the core is imported by its full name"


def test_only_one_file_of_the_nodes_touches_comfyui():
    hosts = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "nodes", "server"}
    for path in sources("nodes"):
        absolute = {module.split(".")[0] for level, module in imports(path) if not level}
        assert path.name == "comfy_adapter.py" or not absolute & (hosts - {"comfy_api"}), path
        assert not absolute & {"kaleido_core", "training"}, f"{path}: the core is reached by ..kaleido_core"


@pytest.mark.parametrize("path", sources(*RINGS, "tests"), ids=names(sources(*RINGS, "tests")))
def test_a_file_fits_into_a_head(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, node.name


def test_only_command_lines_print():
    for path in sources(*RINGS):
        is_script = "__main__" in path.read_text(encoding="utf-8") and path.is_relative_to(ROOT / "training")
        if path.parent != CORE / "cli" and not is_script:
            assert not calls(path, "print"), path


def test_a_pickle_is_never_trusted():
    for path in sources(*RINGS):
        for call in calls(path, "torch.load"):
            safe = [word.value for word in call.keywords if word.arg == "weights_only"]
            assert safe and ast.unparse(safe[0]) == "True", f"{path}:{call.lineno}"


def test_loggers_are_named_by_area():
    for path in sources(*RINGS):
        for call in [*calls(path, "logging.getLogger"), *calls(path, "getLogger")]:
            name = ast.unparse(call.args[0]) if call.args else ""
            assert name.lstrip("f").strip("'\"").startswith("kaleido."), f"{path}:{call.lineno}"
