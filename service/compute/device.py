"""The device: which one, whether it still answers, and what running out of its memory looks like."""

import torch

from bmaml.errors import BmamlError

OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "STATUS_ALLOC_FAILED")
"""What errors say that have no class of their own: of the host, of pinned memory, of cuBLAS and cuDNN."""


class DeviceFailed(BmamlError):
    """The device is not there, or does not answer."""


def device_for(choice: str) -> torch.device:
    """The device of a setting: `auto` takes the GPU where there is one.

    Raises:
        DeviceFailed: `cuda` was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if choice == "cuda" and not available:
        raise DeviceFailed("BMAML_DEVICE is cuda and no GPU is visible; use auto or cpu")
    return torch.device("cuda" if choice != "cpu" and available else "cpu")


def check(device: torch.device) -> None:
    """Let the device compute something.

    An error of a CUDA kernel leaves its context broken for good: everything that is asked of it from
    then on fails, and only a new process helps.

    Raises:
        DeviceFailed: it does not, or computes nonsense.
    """
    try:
        total = float(torch.arange(4, device=device, dtype=torch.float32).sum())
    except RuntimeError as error:
        raise DeviceFailed(f"the device does not answer: {type(error).__name__}") from error
    if total != 6.0:
        raise DeviceFailed("the device computes nonsense")


def out_of_memory(error: BaseException) -> bool:
    """Whether that was too much for the memory of the device, or of this machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def free_memory(device: torch.device) -> None:
    """Hand back what the allocator keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def memory(device: torch.device) -> dict[str, int]:
    """Bytes of the device's memory by what holds them; nothing on the CPU, whose memory is the process's."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    return {"allocated": allocated, "reserved": reserved, "free": free, "total": total}
