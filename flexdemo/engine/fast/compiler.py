"""What torch's compiler is told: its settings, and which sizes differ from request to request. Knows tensors only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from torch._inductor.exc import InductorError
from torch.nn.attention.flex_attention import BlockMask

if TYPE_CHECKING:
    from ..recorders import ApeRows

# One at a time in a process: what may compile, and the capture of a CUDA graph. A compiler that tries kernels waits for
# the whole device, which spoils the capture of another thread.
ALONE = threading.RLock()
COMPILER_ERRORS = (TorchDynamoException, FailOnRecompileLimitHit, InductorError)


def suit_dynamo() -> None:
    """Settings of the compiler, made at every call: they are each thread's own, and a page has many threads."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 256)
    torch._dynamo.config.specialize_float = True  # a scale or a cap that became symbolic is not lowered (torch 2.11)


def mark_sizes(tensor: Tensor, *dimensions: int) -> None:
    """Dimensions that differ from request to request: compiled once for all sizes. 1 has kernels of its own."""
    for dimension in dimensions:
        if tensor.shape[dimension] > 1:
            torch._dynamo.maybe_mark_dynamic(tensor, dimension)


def mark_mask(mask: BlockMask | Tensor) -> None:
    """The sizes of a mask that follow a prompt's length and the number of rows."""
    if isinstance(mask, BlockMask):
        for counts, indices in (
            (mask.kv_num_blocks, mask.kv_indices),
            (mask.full_kv_num_blocks, mask.full_kv_indices),
        ):
            mark_sizes(counts, 0, 2)
            mark_sizes(indices, 0, 2, 3)
        _mark_read(mask.mask_mod)
    else:
        mark_sizes(mask, 0, 2, 3)


def mark_ape(ape: ApeRows | None) -> None:
    """The sizes of what sharpens scores that follow a prompt's length and the number of rows."""
    for each in () if ape is None else ape.tensors():
        mark_sizes(each, 0, 3)


def _mark_read(mask_mod: Callable[..., Tensor]) -> None:
    """The sizes of what a mask_mod reads of tokens, (B, T), or of a table of very many segments, (B, S, S)."""
    for cell in mask_mod.__closure__ or ():
        if callable(cell.cell_contents):
            _mark_read(cell.cell_contents)
        else:
            mark_sizes(cell.cell_contents, *range(cell.cell_contents.dim()))
