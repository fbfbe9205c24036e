"""Boundary: the training run of the bundled model, from facts and wordings to a folder that transformers loads."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import LlamaForCausalLM

from flexdemo.tinyqa.data import UNKNOWN_ANSWER, World, load_world
from flexdemo.tinyqa.model import (
    BOS,
    EOS,
    PAD,
    attention_bias,
    build_model,
    build_tokenizer,
    save_model,
    save_tokenizer,
)
from flexdemo.tinyqa.samples import Mix, Sampler, training_rows


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what comes out; the defaults are those of the model in `assets/`."""

    seed: int = 0
    steps: int = 5204
    minutes: float | None = (
        None  # if set, the learning rate reaches zero at this time or at `steps`, whichever is first
    )
    rows: int = 384
    length: int = 320
    vocab: int = 2048
    hidden: int = 320
    layers: int = 6
    heads: int = 10
    kv_heads: int = 5
    mlp: int = 800
    rate: float = 2e-3
    warmup: float = 0.02
    weight_decay: float = 0.1
    workers: int = 14
    compiled: bool = True
    mix: Mix = field(default_factory=Mix)


def smoke(config: TrainConfig) -> TrainConfig:
    """A tiny model in a few seconds on a CPU: shows that the parts fit together, knows nothing."""
    return replace(
        config, steps=min(config.steps, 40), minutes=0.5, rows=8, length=160, vocab=512, hidden=64, layers=2, heads=4,
        kv_heads=2, mlp=128, workers=0, compiled=False,
    )  # fmt: skip


def tokenizer_texts(world: World, mix: Mix, seed: int, count: int) -> Iterator[str]:
    """What the vocabulary is made from: noised questions and their answers in the proportions of training."""
    sampler = Sampler(world, lambda _: [0], 0, 1, mix, seed)
    for number in range(count):
        asked = sampler.unknown() if number % 8 == 0 else sampler.known()
        question = sampler.question(asked, sampler.wording(asked), sampler.subject(asked))
        yield f"Q: {question}\nA: {asked.answer}\nP:"
    for fact in world.facts:  # every name often enough to become few tokens
        for text in (*fact.subjects, *fact.answers):
            yield from itertools.repeat(f" {text}", 2)
    yield from itertools.repeat(f" {UNKNOWN_ANSWER}", 50)


class TrainingData(IterableDataset):
    """One endless stream of batches for each worker, seeded by the run's seed and the worker's number."""

    def __init__(self, world: World, tokenizer_json: str, config: TrainConfig) -> None:
        self.world, self.tokenizer_json, self.config = world, tokenizer_json, config

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        info = get_worker_info()
        number = info.id if info else 0
        tokenizer = Tokenizer.from_str(self.tokenizer_json)
        bos, eos, pad = (tokenizer.token_to_id(t) for t in (BOS, EOS, PAD))

        def encode(text: str) -> list[int]:
            return tokenizer.encode(text, add_special_tokens=False).ids

        sampler = Sampler(self.world, encode, bos, eos, self.config.mix, self.config.seed * 1000 + number + 1)
        for rows in training_rows(sampler, self.config.rows, self.config.length, pad):
            yield {name: torch.from_numpy(array) for name, array in vars(rows).items()}


def make_loss(model: LlamaForCausalLM, bias_dtype: torch.dtype) -> Callable[[dict[str, torch.Tensor]], torch.Tensor]:
    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        ids = batch["ids"].long()
        bias = attention_bias(batch["examples"], batch["segments"], batch["log_weights"], bias_dtype)
        logits = model(
            input_ids=ids, attention_mask=bias, position_ids=batch["positions"].long(), use_cache=False
        ).logits
        weight = batch["loss"][:, 1:].float()
        each = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
        return (each * weight.flatten()).sum() / weight.sum()

    return loss


def learning_rate(progress: float, warmup: float) -> float:
    """Share of the peak rate: a short linear rise, then linear down to zero."""
    return min(progress / warmup, (1 - progress) / (1 - warmup)) if progress < 1 else 0.0


def train(
    config: TrainConfig, out: Path, device: str = "auto", folder: Path | None = None, log: Callable = print
) -> dict:
    """Trains, saves model, tokenizer and `training.json` into `out`, and returns what the last of them holds."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are processes already
    began = time.monotonic()
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision("high")
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    world = load_world(folder)
    texts = tokenizer_texts(world, config.mix, config.seed, 2_000 if config.vocab < 1024 else 60_000)
    tokenizer = build_tokenizer(texts, config.vocab)
    model = build_model(
        tokenizer.get_vocab_size(), config.hidden, config.layers, config.heads, config.kv_heads, config.mlp
    ).to(kind)  # fmt: skip
    log(f"{model.num_parameters():,} parameters, {len(world.facts):,} questions on facts, device {kind}")
    data = TrainingData(world, tokenizer.to_str(), config)
    loader = DataLoader(
        data, batch_size=None, num_workers=config.workers, pin_memory=kind == "cuda",
        prefetch_factor=4 if config.workers else None,
    )  # fmt: skip
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=config.rate, betas=(0.9, 0.95), fused=kind == "cuda")
    half = kind == "cuda"
    loss_of = make_loss(model, torch.bfloat16 if half else torch.float32)
    if config.compiled and half:
        loss_of = torch.compile(loss_of)
    started = time.monotonic()
    step, recent, history = 0, [], []
    for batch in itertools.islice(loader, config.steps):
        elapsed = time.monotonic() - began
        progress = max(step / config.steps, elapsed / (60 * config.minutes) if config.minutes else 0.0)
        if progress >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = config.rate * learning_rate(progress + 1e-9, config.warmup)
        batch = {name: tensor.to(kind, non_blocking=True) for name, tensor in batch.items()}
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            value = loss_of(batch)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        recent.append(value.detach())
        step += 1
        if step % 200 == 0 or step in (1, 10, config.steps):
            mean = torch.stack(recent).mean().item()
            history.append({"step": step, "loss": round(mean, 4), "seconds": round(time.monotonic() - began, 1)})
            speed = step * config.rows * config.length / (time.monotonic() - started)
            log(f"step {step} loss {mean:.4f} {speed / 1e6:.2f} M tokens/s {time.monotonic() - began:.0f} s")
            recent = []
    save_tokenizer(tokenizer, out)
    save_model(model.float().cpu(), out)
    record = {
        "config": asdict(config), "steps_done": step, "tokens": step * config.rows * config.length,
        "seconds": round(time.monotonic() - began, 1), "parameters": model.num_parameters(),
        "questions_on_facts": len(world.facts), "torch": torch.__version__, "history": history,
    }  # fmt: skip
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    log(f"saved {out} after {step} steps, {record['seconds']:.0f} s")
    return record
