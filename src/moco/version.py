"""The version, for the package's metadata and for whoever asks."""

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """What a result was made with: moco, Python, torch, torchvision."""
    import platform

    import torch
    import torchvision

    return {
        "moco": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
    }
