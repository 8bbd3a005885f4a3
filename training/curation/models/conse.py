"""Words against pictures without CLIP: the classes a network sees, spelt out, beside the words that are asked.

After Norouzi et al., Zero-Shot Learning by Convex Combination of Semantic Embeddings, 2014.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from kaleido_core.errors import ConfigError

from .efficientnet import EfficientNet
from .files import need
from .kinds import Pixels
from .local import read_model, read_processor

CLASSES = "imagenet1k_clean_names.json"
BEST = 10  # classes that count
SHARPNESS = 20.0  # of the choice among words; cosines of unlike words differ by a tenth
AT_ONCE = 100  # names that are read together
# ImageNet's classes lie in families, whose names hardly tell what they are: "Egyptian Mau".
FAMILIES = (
    (range(0, 7), "fish"), (range(7, 25), "bird"), (range(80, 101), "bird"), (range(127, 147), "bird"),
    (range(151, 269), "dog"), (range(281, 286), "cat"), (range(294, 298), "bear"), (range(300, 320), "insect"),
)  # fmt: skip
# It knows no persons, only what they wear.
WORN = frozenset(
    """abaya,academic gown,apron,swimming cap,bikini,bolo tie,poke bonnet,bow tie,bra,bulletproof vest,cardigan,cloak,
cowboy hat,crash helmet,feather boa,football helmet,fur coat,gown,hair clip,hoop skirt,jeans,T-shirt,kimono,lab coat,
one-piece bathing suit,military uniform,miniskirt,graduation cap,overskirt,pajamas,poncho,sarong,shower cap,sombrero,
balaclava ski mask,stole scarf,suit,sunglasses,sweatshirt,swim trunks / shorts,trench coat,vestment,hair wig,
Windsor tie,baseball player,bridegroom,scuba diver"""
    .replace("\n", "").split(",")
)  # fmt: skip


class ConSE:
    """An ``ImageText`` for common things; a proxy, whose numbers are not those of CLIP."""

    def __init__(self, folder: Path) -> None:
        self._eyes = EfficientNet(folder.parent / "efficientnet")
        names = json.loads(need(folder / CLASSES, "conse").read_text(encoding="utf-8"))
        need(folder / "model.safetensors", "conse")
        self._net, self._words = read_model(folder, "AutoModel"), read_processor(folder, "AutoTokenizer")
        if len(names) != 1000:
            raise ConfigError(f"{folder / CLASSES} has {len(names)} names, 1000 are needed. Fetch the models again.")
        told = [spelt_out(number, name) for number, name in enumerate(names)]
        self._names = torch.cat([self._read(told[start : start + AT_ONCE]) for start in range(0, 1000, AT_ONCE)])

    @torch.no_grad()
    def fit(self, picture: Pixels, words: Sequence[str]) -> list[float]:
        best = self._eyes.classes(picture).softmax(0).topk(BEST)
        seen = best.values @ self._names[best.indices]
        asked = self._read([f"a {word}" for word in words])
        return (SHARPNESS * (asked @ (seen / seen.norm()))).softmax(0).tolist()

    @torch.no_grad()
    def _read(self, words: Sequence[str]) -> Tensor:
        """A unit vector for each: the mean over its tokens. ``[words width]``"""
        inputs = self._words(list(words), padding=True, truncation=True, return_tensors="pt").to(self._net.device)
        there = inputs["attention_mask"][..., None]
        vectors = (self._net(**inputs).last_hidden_state * there).sum(1) / there.sum(1)
        return torch.nn.functional.normalize(vectors, dim=1).cpu()


def spelt_out(number: int, name: str) -> str:
    """What a class shows, for someone who never heard its name."""
    if name in WORN:
        return f"a person with {name}"
    family = next((family for numbers, family in FAMILIES if number in numbers), "")
    return f"{family}, {name}" if family else name
