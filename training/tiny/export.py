"""Turn a run's checkpoints into the files that are shipped.

``python -m training.tiny.export vae DATA RUN OUT.safetensors`` and
``python -m training.tiny.export dit RUN OUT_FOLDER`` store the averaged weights in bfloat16;
``python -m training.tiny.export references DATA OUT_FOLDER NAME...`` draws held-out subjects as reference images.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from kaleido_core import WanVAE
from kaleido_core.checkpoints.load import TINY_FILES
from kaleido_core.checkpoints.save import save_weights
from kaleido_core.checkpoints.sizes import write_identity
from kaleido_core.config import LATENT_MEAN, LATENT_STD, VAEConfig
from kaleido_core.errors import DataError

from .data import Artwork, draw_scenes, load_artwork
from .emoji import load_emoji
from .recipe import TINY_DIT, TINY_TEXT, TINY_VAE, WHOLE
from .render import render_clips
from .run_state import load_average

State = dict[str, Tensor]


@torch.no_grad()
def latent_statistics(vae: WanVAE, art: Artwork, clips: int = 48) -> tuple[Tensor, float]:
    """Per-channel mean ``[16]`` of training latents, and the standard deviation of all channels around their means."""
    latents = []
    for start in range(0, clips, 16):
        pixels = render_clips(
            draw_scenes(art, 16, 1 + start // 16 % 3, 77_000 + start), art.emoji, art.photos, art.device
        )
        latents.append(vae.encode(pixels, chunk=WHOLE))
    stacked = torch.cat(latents)
    mean = stacked.mean((0, 2, 3, 4))
    return mean.cpu(), (stacked - mean.view(-1, 1, 1, 1)).square().mean().sqrt().item()


def fold_statistics(state: State, mean: Tensor, std: float) -> State:
    """Make raw latents of per-channel ``mean`` ``[16]`` and common ``std`` fit the standard Wan constants.

    Afterwards (mu - LATENT_MEAN) / LATENT_STD has zero mean in every channel and unit variance over all together; the
    1x1x1 convolutions on both sides of the latent carry the change.
    """
    target_mean, target_std = torch.tensor(LATENT_MEAN), torch.tensor(LATENT_STD)
    gain = target_std / std  # new = (old - mean) * gain + target_mean
    state = {name: value.float().clone() for name, value in state.items()}
    channels = len(mean)
    state["conv1.weight"][:channels] *= gain.view(-1, 1, 1, 1, 1)
    state["conv1.bias"][:channels] = (state["conv1.bias"][:channels] - mean) * gain + target_mean
    columns = state["conv2.weight"].flatten(1)  # [out in]
    state["conv2.bias"] += columns @ (mean - target_mean / gain)
    state["conv2.weight"] /= gain.view(1, -1, 1, 1, 1)
    return state


def export_vae(data: Path, run: Path, out: Path, device: torch.device) -> None:
    state = load_average(run / "vae.pt")
    vae = WanVAE(TINY_VAE)
    vae.load_state_dict(state)
    mean, std = latent_statistics(vae.to(device), load_artwork(data, device))
    folded = {name: value.bfloat16() for name, value in fold_statistics(state, mean, std).items()}
    config = VAEConfig(base_width=TINY_VAE.base_width)
    save_weights(out, folded, write_identity("vae", config, "bf16", "kaleido-tiny", True))


def export_dit(run: Path, out: Path) -> None:
    state = load_average(run / "dit.pt")
    for part, config in (("dit", TINY_DIT), ("text", TINY_TEXT)):
        tensors = {n.removeprefix(f"{part}."): v.bfloat16() for n, v in state.items() if n.startswith(f"{part}.")}
        kind = "dit" if part == "dit" else "text"
        identity = write_identity(kind, config, "bf16", "kaleido-tiny", True)
        path = out / TINY_FILES[part]
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(path, tensors, identity)


def export_references(data: Path, out: Path, names: list[str], side: int = 256) -> None:
    """One PNG for each named held-out subject, on white, ``side`` pixels."""
    emoji = load_emoji(data / "emoji.zip")
    drawings = {name: index for index, name in enumerate(emoji.names) if emoji.held_out[index]}
    for name in names:
        if name not in drawings:
            raise DataError(f"{name!r} is not held out; we need one of {', '.join(sorted(drawings))}.")
        pixels = emoji.sprites[drawings[name]].permute(1, 2, 0).numpy()
        picture = Image.fromarray(pixels).resize((side * 3 // 4, side * 3 // 4), Image.Resampling.LANCZOS)
        canvas = Image.new("RGB", (side, side), "white")
        canvas.paste(picture, (side // 8, side // 8), picture)
        canvas.save(out / f"{name.replace(' ', '_')}.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    vae = parts.add_parser("vae")
    vae.add_argument("data", type=Path)
    dit = parts.add_parser("dit")
    references = parts.add_parser("references")
    references.add_argument("data", type=Path)
    for part in (vae, dit):
        part.add_argument("run", type=Path)
    for part in (vae, dit, references):
        part.add_argument("out", type=Path)
    references.add_argument("names", nargs="+")
    arguments = parser.parse_args()
    if arguments.part == "vae":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        export_vae(arguments.data, arguments.run, arguments.out, device)
    elif arguments.part == "references":
        export_references(arguments.data, arguments.out, arguments.names)
    else:
        export_dit(arguments.run, arguments.out)


if __name__ == "__main__":
    main()
