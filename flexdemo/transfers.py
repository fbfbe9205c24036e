"""Copies between CPU and GPU that wait for no work but their own. Knows tensors only.

A copy from ordinary memory waits until the GPU has done all that it was given before; one from pinned memory does not.
"""

from __future__ import annotations

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on a device."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Download:
    """Tensors on their way to the CPU: work that is given to the GPU later does not delay them."""

    def __init__(self, *tensors: Tensor | None) -> None:
        self._tensors = [each if each is None else each.to("cpu", non_blocking=each.is_cuda) for each in tensors]
        self._arrived = []
        for device in {each.device for each in tensors if each is not None and each.is_cuda}:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))  # an event hears of one device's work only
            self._arrived.append(event)

    def lists(self) -> list[list | None]:
        """Their values as lists, once they have arrived; None for None."""
        for event in self._arrived:
            event.synchronize()
        return [None if each is None else each.tolist() for each in self._tensors]
