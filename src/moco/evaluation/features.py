"""Features of any nn.Module, computed without leaving a trace in it.

N: images   D: feature width   C, H, W: channels, height, width
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from moco.errors import DataError


def extract_features(module: nn.Module, batches: Iterable[Tensor], *, bf16: bool = False) -> Tensor:
    """Features of all images, (N, D), float32, on the CPU, in the order in which the batches come.

    `batches` yields normalised image tensors (n, C, H, W); each is moved to the device of the module's parameters.
    The module runs in eval mode and without autograd, with `bf16` under bfloat16 autocast. Afterwards the training
    flag of every submodule, the BatchNorm statistics and torch's random state (also where a data loader draws its seed
    from it) are what they were.

    Raises DataError where there is no batch, where a batch is not a tensor, or where the module does not give (n, D).
    """
    device = module_device(module)
    features = []
    same_random_state = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with eval_mode(module), same_random_state, torch.inference_mode():
        for images in batches:
            if not isinstance(images, Tensor):
                raise DataError(f"a batch is a {type(images).__name__}: need the image tensor alone")
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                output = module(images.to(device, non_blocking=True))
            features.append(_checked(output, num_images=len(images)).to("cpu", torch.float32))
    if not features:
        raise DataError("no batches came: need at least one batch of images to extract features from")
    # Joined outside inference mode, they are an ordinary tensor, which a linear probe may train on.
    return torch.cat(features)


def module_device(module: nn.Module) -> torch.device:
    """Device of the module's first parameter, else of its first buffer, else the CPU."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


def _checked(output: object, *, num_images: int) -> Tensor:
    if not isinstance(output, Tensor):
        raise DataError(f"the module returned a {type(output).__name__}: need a tensor of features (n, D)")
    if output.ndim != 2 or len(output) != num_images:
        raise DataError(f"the module made {tuple(output.shape)} of {num_images} images: need (n, D); pool them")
    return output


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; outside, each submodule's own flag (a frozen BatchNorm in a training network stays frozen)."""
    was_training = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, flag in was_training:
            submodule.training = flag
