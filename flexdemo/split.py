"""One model split over processes by transformers' own tensor-parallel plan. Knows no prompts and no data."""

from __future__ import annotations

from typing import Any

import torch

from .config import InputError

LAUNCH = "torchrun --standalone --nproc-per-node N -m flexdemo evaluate ... --tensor-parallel"


def check_processes(world: int) -> None:
    """InputError for a run of one process."""
    if world < 2:
        raise InputError(f"--tensor-parallel splits a model over several processes: start them with {LAUNCH}")


def split_options(config: Any, name: str, world: int, device: str) -> dict[str, Any]:
    """Arguments of `from_pretrained` that load a model's share of this process; InputError if it cannot be shared."""
    from transformers.distributed import DistributedConfig

    text = config.get_text_config()
    if not getattr(text, "base_model_tp_plan", None):
        raise InputError(f"{name}: transformers has no tensor-parallel plan for {text.model_type} models")
    heads = [getattr(text, part, None) for part in ("num_attention_heads", "num_key_value_heads")]
    fewest = min((count for count in heads if count), default=1)
    if any(count and count % world for count in heads):
        raise InputError(f"{name}: {world} processes cannot share {fewest} attention heads evenly: start fewer")
    if device != "cpu" and torch.cuda.device_count() < 2:
        raise InputError(f"{name} is split over GPUs, one a process, and there is one GPU here")
    if device == "cpu" and torch.cuda.is_available():
        raise InputError("a model is split over the GPUs where there are any: leave --device out")
    return {"distributed_config": DistributedConfig(tp_plan="auto", tp_size=world)}
