"""Keys of a dictionary in a byte for each number, made into floats block by block as the loss comes by.

K: keys in the dictionary   C: embedding width
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

DictionaryDtype = Literal["fp32", "bf16", "int8"]
STORED_AS = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
LARGEST = 127  # of the codes, which are symmetric about 0


@dataclasses.dataclass(frozen=True)
class ScaledKeys:
    """int8 codes with a scale for each key: key = code * scale. A slice, or their numbers, is some of the keys;
    `to` makes them floats.

    An entry is off by at most half the scale, which is the key's largest magnitude / 127.
    """

    codes_KC: Tensor
    scales_K: Tensor

    @classmethod
    def of(cls, keys_KC: Tensor) -> ScaledKeys:
        """The nearest codes of these keys, with scales in float32; a key of zeros stays one."""
        keys_KC = keys_KC.float()
        scales_K = keys_KC.abs().amax(dim=1) / LARGEST
        smallest = torch.finfo(torch.float32).tiny
        return cls((keys_KC / scales_K.clamp_min(smallest)[:, None]).round().to(torch.int8), scales_K)

    @property
    def shape(self) -> torch.Size:
        """(K, C)."""
        return self.codes_KC.shape

    @property
    def ndim(self) -> int:
        """2."""
        return self.codes_KC.ndim

    @property
    def requires_grad(self) -> bool:
        """No."""
        return False

    def __len__(self) -> int:
        return len(self.codes_KC)

    def __getitem__(self, some: slice | Tensor) -> ScaledKeys:
        return ScaledKeys(self.codes_KC[some], self.scales_K[some])

    def to(self, dtype: torch.dtype) -> Tensor:
        """The keys in this floating-point precision, (K, C)."""
        return self.codes_KC.to(dtype).mul_(self.scales_K.to(dtype)[:, None])
