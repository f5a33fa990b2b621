"""What computed a score, for its key in the store: the sources, the libraries, the processor."""

from importlib.metadata import version

import torch

from lib.sources import digests
from lib.store import digest

ROOMS = ("lib.engine", "lib.model", "kernels")


def sources(module: str) -> dict[str, str]:
    """{module: digest} of `module` and of all that it reaches in the rooms that decide a score."""
    return {name: found for name, found in digests([module]).items() if name.startswith(ROOMS)}


def sources_digest(module: str) -> str:
    """One digest of these sources. Take it on import: what is edited afterwards is not what this process runs."""
    return digest(*(f"{name} {found}" for name, found in sources(module).items()))


def computed_by(sources_digest: str, device: torch.device) -> tuple[str, ...]:
    """The sources' digest, torch's and transformers' versions and the processor, as parts of a key."""
    return sources_digest, torch.__version__, version("transformers"), _processor(device)


def _processor(device: torch.device) -> str:
    """The GPU's name, or the vector instructions that torch uses on this CPU: what decides how sums are rounded."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return torch.backends.mps.get_name()
    return torch.backends.cpu.get_cpu_capability()
