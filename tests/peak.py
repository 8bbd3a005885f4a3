"""How much memory tensors take at most: counted, so that fake tensors of a model of full size will do."""

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(TorchDispatchMode):
    """Inside of it, ``bytes`` is the most that tensors made there held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.sizes: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        self.sizes = {storage: size for storage, size in self.sizes.items() if not storage.expired()}
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and _storage(leaf) not in given:  # no view, not written in place
                self.sizes[_storage(leaf)] = leaf.untyped_storage().nbytes()
        self.bytes = max(self.bytes, sum(self.sizes.values()))
        return result


def _storage(tensor: torch.Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())
