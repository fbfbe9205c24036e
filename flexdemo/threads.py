"""How many CPU threads suit a model. Knows no prompts and no page."""

from __future__ import annotations

import os

import torch

from .model import LanguageModel

SMALL = 20_000_000  # parameters; below, a layer's work is shorter than what it takes to share it


def suit_threads(lm: LanguageModel) -> int:
    """Set torch's threads for this process to what suits the model, and return their number.

    A small model on the CPU runs on one: threads that wait for each other at every layer took six times the CPU time
    and four times as long on two busy cores (7 M parameters). OMP_NUM_THREADS, if set, is obeyed.
    """
    parameters = sum(each.numel() for each in lm.model.parameters())
    if lm.device.type == "cpu" and parameters < SMALL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    return torch.get_num_threads()
