"""What a figure was measured on, said once: versions, system, processor, device. Without torch where none is asked."""

import hashlib
import os
import platform
from importlib import metadata

from lib.errors import InputError

PACKAGES = (
    *("torch", "transformers", "tokenizers", "datasets", "numpy", "scipy"),
    *("altair", "papermill", "nbconvert", "triton"),
)


def check_packages() -> None:
    """`InputError` where the index's package `kernels` is installed: one of the two would be taken for the other.

    transformers imports that name where its metadata is there, and would find this repository's `kernels/`.
    """
    try:
        found = metadata.version("kernels")
    except metadata.PackageNotFoundError:
        return
    raise InputError(
        f"the package kernels {found} is installed beside this repository's own kernels/, and transformers would mix"
        " them up; remove it: python -m pip uninstall kernels"
    )


def versions() -> dict[str, str]:
    """Python's version and those of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The processor's own name, or at least its kind."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def instructions() -> str:
    """The processor's name and the instructions that it knows: what code made for this machine depends on."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        flags = ""
    return f"{platform.machine()} {processor()} {' '.join(sorted(flags.split()))}"


def cpu() -> dict[str, str]:
    """The processor's name, and a digest of the instructions that it knows: two that differ may round differently."""
    return {"name": processor(), "instructions": hashlib.sha256(instructions().encode()).hexdigest()[:16]}


def system() -> dict:
    """`{system, processor, cores}`: what stands in the provenance of every section."""
    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()}


def peak_memory(process_id: int) -> int | None:
    """Peak resident bytes of a running process by Linux's account; None where there is none."""
    try:
        with open(f"/proc/{process_id}/status", encoding="utf-8") as file:
            return next((1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM")), None)
    except OSError:
        return None


def device_name(device: str) -> str:
    """The GPU's name; for a CPU the processor's, with its widest vector unit as PyTorch sees it."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{processor()}, {torch.backends.cpu.get_cpu_capability()}"


def described(device: str) -> dict:
    """What a timing on `device` must travel with: its name, versions, threads."""
    import torch

    found: dict[str, str | int | None] = {**versions()}
    if device == "cuda":
        found |= {"cuda": torch.version.cuda, "hip": torch.version.hip, "cudnn": torch.backends.cudnn.version()}
    return {
        "device": device,
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": found,
    }
