"""The device: its choice, its health, and its memory."""

from collections.abc import Mapping

import torch

from bmaml.errors import BmamlError

OUT_OF_MEMORY_TEXTS = ("DefaultCPUAllocator", "out of memory", "STATUS_ALLOC_FAILED")
"""Texts of out-of-memory errors without a class of their own: of the host, of pinned memory, and of
cuBLAS and cuDNN."""

BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Sets of instructions that multiply in bfloat16, as torch names them."""


class DeviceFailed(BmamlError):
    """The device is missing, or does not answer any more."""


def device_for(choice: str) -> torch.device:
    """The device of a setting; `auto` is the GPU where there is one.

    Raises:
        DeviceFailed: `cuda` was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if choice == "cuda" and not available:
        raise DeviceFailed("BMAML_DEVICE is cuda and no GPU is visible; use auto or cpu")
    return torch.device("cuda" if choice != "cpu" and available else "cpu")


def check_bfloat16(device: torch.device) -> None:
    """Check that the processor multiplies in bfloat16; others imitate it slowly.

    Raises:
        DeviceFailed: it does not, or a GPU computes.
    """
    if device.type != "cpu":
        raise DeviceFailed("BMAML_BFLOAT16 is for images on a CPU, and a GPU computes here: leave it out")
    # torch 2.11 does not tell.
    found: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    if not any(found.get(each) for each in BFLOAT16_INSTRUCTIONS):
        raise DeviceFailed(
            f"BMAML_BFLOAT16 needs a processor with one of {', '.join(BFLOAT16_INSTRUCTIONS)}, and this one "
            "has none: leave it out"
        )


def check(device: torch.device) -> None:
    """Check that the device computes.

    An error of a CUDA kernel breaks its context for good: all later calls fail, and only a new process
    helps.

    Raises:
        DeviceFailed: it does not, or its result is wrong.
    """
    try:
        total = float(torch.arange(4, device=device, dtype=torch.float32).sum())
    except RuntimeError as error:
        raise DeviceFailed(f"the device does not answer: {type(error).__name__}") from error
    if total != 6.0:
        raise DeviceFailed("the device computes nonsense")


def out_of_memory(error: BaseException) -> bool:
    """Whether the error says that the device or this machine was out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)


def free_memory(device: torch.device) -> None:
    """Return the unused memory of the GPU's allocator to the GPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def memory(device: torch.device) -> dict[str, int]:
    """Bytes of the GPU's memory that are allocated, reserved, free and in total; empty on a CPU."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    return {"allocated": allocated, "reserved": reserved, "free": free, "total": total}
