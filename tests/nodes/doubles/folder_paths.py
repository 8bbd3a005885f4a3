import os
import tempfile
from pathlib import Path

_FOLDER = tempfile.TemporaryDirectory(prefix="kaleido-double-")  # goes with the process
BASE = Path(_FOLDER.name)
base_path = str(BASE)
FOLDERS: dict[str, list[str]] = {
    name: [str(BASE / "models" / name)] for name in ("diffusion_models", "vae", "text_encoders")
}


def add_model_folder_path(folder_name: str, full_folder_path: str, is_default: bool = False) -> None:
    if full_folder_path not in FOLDERS[folder_name]:
        FOLDERS[folder_name].append(full_folder_path)


def get_filename_list(folder_name: str) -> list[str]:
    return sorted(n for f in FOLDERS[folder_name] if os.path.isdir(f) for n in os.listdir(f))


def get_full_path_or_raise(folder_name: str, filename: str) -> str:
    for folder in FOLDERS[folder_name]:
        if os.path.isfile(os.path.join(folder, filename)):
            return os.path.join(folder, filename)
    raise FileNotFoundError(filename)


def get_output_directory() -> str:
    return str(BASE / "output")


def get_input_directory() -> str:
    return str(BASE / "input")


def get_annotated_filepath(name: str) -> str:
    return os.path.join(get_input_directory(), name)


def get_save_image_path(filename_prefix: str, output_dir: str, image_width=0, image_height=0):
    subfolder, stem = os.path.split(filename_prefix)
    folder = os.path.join(output_dir, subfolder)
    os.makedirs(folder, exist_ok=True)
    counter = 1 + sum(name.startswith(stem) and name.endswith(".json") for name in os.listdir(folder))
    return folder, stem, counter, subfolder, filename_prefix
