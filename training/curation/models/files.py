"""Files of models: where they are, and what to do when they are not."""

from pathlib import Path

from kaleido_core.errors import ConfigError

from ..packages import load


def need(path: Path, name: str) -> Path:
    """The path, or a ``ConfigError`` telling how to get the file."""
    if not path.is_file():
        raise ConfigError(
            f"{path} is missing; the model {name} needs it. "
            f"python -m training.curation fetch-models {path.parent.parent}"
        )
    return path


def onnx_session(path: Path, name: str):
    """An onnxruntime session on one core: the pipeline has a process for each core."""
    runtime = load("onnxruntime", "onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(str(need(path, name)), options, providers=["CPUExecutionProvider"])
