from safetensors import safe_open
from torch import Tensor

PROGRESS_BAR_ENABLED = False


def load_torch_file(path: str, return_metadata: bool = False):
    with safe_open(path, "pt") as file:
        state: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return (state, file.metadata()) if return_metadata else state
