"""Boundary: measures a saved model on held-out wordings, by a dense mask and full recomputation of every step.

It shares no attention code with the engine on purpose: two ways to one number.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from flexdemo.tinyqa import noise
from flexdemo.tinyqa.data import (
    RELATIONS,
    SLOT,
    UNKNOWN_ANSWER,
    World,
    fill,
    is_right,
    load_world,
    normalise,
    questions_from,
)
from flexdemo.tinyqa.model import attention_bias
from flexdemo.tinyqa.samples import Pack, empty_rows, pack, place

# name -> settings of `pack`; the last of the ladder is the engine's `flex`.
FUSIONS: Mapping[str, Mapping[str, bool]] = {
    "causal": {"causal": True},
    "segment_sequential": {"sequential": True},
    "segment_aligned": {},
    "flex": {"weighted": True},
}


@dataclass(frozen=True)
class Answerer:
    """A loaded model and the batch size in tokens at which it answers."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    tokens: int = 60_000
    longest: int = 14

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def prompt(self, wordings: Sequence[str], suffix: str = "A:", prefix: str = "", **scheme: bool) -> Pack:
        start = [self.tokenizer.bos_token_id, *(self.encode(prefix) if prefix else ())]
        return pack(start, [self.encode(f"Q: {w}\n") for w in wordings], self.encode(suffix), **scheme)

    def answers(
        self, groups: Sequence[Sequence[Pack]], temperature: float = 0.0, longest: int | None = None
    ) -> list[str]:
        """One answer for each group of prompts, whose logits are averaged; a group of one answers for itself."""
        found = [""] * len(groups)
        order = sorted(range(len(groups)), key=lambda g: max(len(p.ids) for p in groups[g]))
        batch: list[int] = []
        size = 0
        for g in [*order, -1]:
            cost = 0 if g < 0 else len(groups[g]) * (max(len(p.ids) for p in groups[g]) + self.longest)
            if batch and (g < 0 or size + cost > self.tokens):
                texts = self._decode([groups[i] for i in batch], temperature, longest or self.longest)
                for i, text in zip(batch, texts, strict=True):
                    found[i] = text
                batch, size = [], 0
            batch.append(g)
            size += cost
        return found

    @torch.no_grad()
    def _decode(self, groups: Sequence[Sequence[Pack]], temperature: float, longest: int) -> list[str]:
        device, end = self.model.device, self.tokenizer.eos_token_id
        written: list[list[int]] = [[] for _ in groups]
        active = list(range(len(groups)))
        for _ in range(longest):
            prompts = [_extended(p, written[g]) for g in active for p in groups[g]]
            rows = empty_rows(len(prompts), max(len(p.ids) for p in prompts), self.tokenizer.pad_token_id)
            for row, prompt in enumerate(prompts):
                place(rows, row, 0, 0, prompt)
            batch = {name: torch.from_numpy(array).to(device) for name, array in vars(rows).items()}
            bias = attention_bias(batch["examples"], batch["segments"], batch["log_weights"], torch.float32)
            states = self.model.model(
                input_ids=batch["ids"].long(),
                attention_mask=bias,
                position_ids=batch["positions"].long(),
                use_cache=False,
            ).last_hidden_state
            last = torch.tensor([len(p.ids) - 1 for p in prompts], device=device)
            logits = self.model.lm_head(states[torch.arange(len(prompts), device=device), last]).float().cpu()
            owner = torch.tensor([i for i, g in enumerate(active) for _ in groups[g]])
            mean = torch.zeros(len(active), logits.shape[1]).index_add_(0, owner, logits)
            mean /= torch.bincount(owner)[:, None]
            if temperature:
                tokens = torch.multinomial(torch.softmax(mean / temperature, -1), 1)[:, 0].tolist()
            else:
                tokens = mean.argmax(-1).tolist()
            for g, token in zip(active, tokens, strict=True):
                written[g].append(token)
            active = [g for g, token in zip(active, tokens, strict=True) if token != end]
            if not active:
                break
        return [self.tokenizer.decode(ids, skip_special_tokens=True).split("\n")[0].strip() for ids in written]


def _extended(prompt: Pack, ids: Sequence[int]) -> Pack:
    """The prompt with the answer so far: it continues the positions and the segment of the suffix."""
    if not ids:
        return prompt
    count, last = len(ids), prompt.positions[-1]
    return Pack(
        (*prompt.ids, *ids), (*prompt.positions, *range(last + 1, last + 1 + count)),
        (*prompt.segments, *([prompt.segments[-1]] * count)), (*prompt.log_weights, *([0.0] * count)),
        (*prompt.loss, *([0.0] * count)),
    )  # fmt: skip


def wordings_of(record: Mapping) -> list[str]:
    return [record["question"], *record["paraphrases"]]


def as_typed(records: Sequence[Mapping], world: World, seed: int) -> list[dict]:
    """The same questions as visitors type them: every wording with its own noise, inside held-out beginnings and ends."""
    rng, rates = random.Random(seed), noise.NoiseRates(clean=0.2)
    kinds = {r.name: r.kind for r in RELATIONS}
    typed = []
    for record in records:
        spoiled = []
        for text in wordings_of(record):
            for name in (record["subject"], record["subject"][:1].upper() + record["subject"][1:]):
                template = text.replace(name, SLOT)
                if template.count(SLOT) == 1:
                    break
            else:
                template = text  # the subject's letters stand in it twice: noise on all of it
            before, after = world.before.held_out, world.after.held_out
            kind = kinds[record["relation"]]
            spoiled.append(noise.spoil(template, record["subject"], kind, rng, rates, before=before, after=after))
        typed.append({**record, "question": spoiled[0], "paraphrases": spoiled[1:]})
    return typed


def share(flags: Sequence[bool]) -> float:
    return round(sum(flags) / len(flags), 4) if flags else 0.0


def all_answers(answerer: Answerer, records: Sequence[Mapping]) -> dict[str, list]:
    """Answers by every method; `per_prompt` holds a list for each record."""
    counts = [len(wordings_of(r)) for r in records]
    alone = [answerer.prompt([w]) for r in records for w in wordings_of(r)]
    flat = iter(answerer.answers([[p] for p in alone]))
    per_prompt = [[next(flat) for _ in range(c)] for c in counts]
    rows = iter(alone)
    found: dict[str, list] = {"per_prompt": per_prompt, "origin": [a[0] for a in per_prompt]}
    for name, scheme in FUSIONS.items():
        found[name] = answerer.answers([[answerer.prompt(wordings_of(r), **scheme)] for r in records])
    found["avg"] = answerer.answers([[next(rows) for _ in range(c)] for c in counts])
    return found


def table(records: Sequence[Mapping], answers: Mapping[str, list]) -> dict:
    """Share of right answers for every method, over all records and for each relation."""
    right: dict[str, list[list[bool]]] = {}
    for name, given in answers.items():
        many = [g if isinstance(g, list) else [g] for g in given]
        right[name] = [[is_right(a, r["answers"]) for a in each] for each, r in zip(many, records, strict=True)]
    overall = {name: share([ok for each in rows for ok in each]) for name, rows in right.items()}
    overall["mean_single"] = overall.pop("per_prompt")
    relations = {}
    for relation in dict.fromkeys(r["relation"] for r in records):
        at = [i for i, r in enumerate(records) if r["relation"] == relation]
        relations[relation] = {"n": len(at)} | {
            n: share([ok for i in at for ok in rows[i]]) for n, rows in right.items()
        }
    return {"questions": len(records), "overall": overall, "relations": relations}


def unknown_questions(world: World, count: int, seed: int, split: str) -> dict[str, list[str]]:
    """Questions without an answer: invented names, real things asked about something else, and general questions."""
    rng = random.Random(seed)
    names = {normalise(s) for f in world.facts for s in f.subjects}
    found: dict[str, list[str]] = {"invented": [], "about": [], "general": list(getattr(world.general, split))[:count]}
    facts = world.by_relation()
    for _ in range(count):
        relation = rng.choice(RELATIONS)
        name = noise.invent(relation.kind, rng)
        if normalise(name) not in names:
            found["invented"].append(fill(rng.choice(getattr(world.questions[relation.name], split)), name))
        kind = rng.choice([r for r in RELATIONS if r.kind in world.about])
        subject = rng.choice(facts[kind.name]).subjects[0]
        found["about"].append(fill(rng.choice(getattr(world.about[kind.kind], split)), subject))
    return found


def refusals(answerer: Answerer, world: World, count: int, seed: int) -> dict[str, float]:
    rates = {}
    for split in ("train", "held_out"):
        for name, questions in unknown_questions(world, count, seed, split).items():
            answers = answerer.answers([[answerer.prompt([q])] for q in questions])
            rates[f"{name}_{split}"] = share([is_right(a, (UNKNOWN_ANSWER,)) for a in answers])
    return rates


def rewriting(answerer: Answerer, records: Sequence[Mapping], tries: int, temperature: float) -> dict:
    """Samples paraphrases: how many keep the subject, are new, differ from each other and get the right answer."""
    prompts = [[answerer.prompt([r["question"]], suffix="P:", causal=True)] for r in records for _ in range(tries)]
    flat = iter(answerer.answers(prompts, temperature=temperature, longest=48))
    kept, new, distinct, samples = [], [], [], []
    for record in records:
        written = [next(flat) for _ in range(tries)]
        kept += [normalise(record["subject"]) in normalise(w) for w in written]
        new += [normalise(w) != normalise(record["question"]) for w in written]
        distinct.append(len({normalise(w) for w in written}) / tries)
        samples.append({"question": record["question"], "written": written})
    answers = answerer.answers([[answerer.prompt([w])] for s in samples for w in s["written"]])
    accepted = [r["answers"] for r in records for _ in range(tries)]
    return {
        "questions": len(records), "each": tries, "temperature": temperature,
        "keeps_subject": share(kept), "new": share(new),
        "distinct": round(sum(distinct) / max(1, len(distinct)), 4),
        "answered_right": share([is_right(a, ok) for a, ok in zip(answers, accepted, strict=True)]),
        "samples": samples[:8],
    }  # fmt: skip


def report(
    answerer: Answerer,
    questions: int,
    paraphrases: int,
    seed: int,
    folder: Path | None = None,
    log: Callable = lambda _: None,
) -> dict:
    """Everything that is measured, as one JSON-ready object."""
    world = load_world(folder)
    records = questions_from(world, questions, paraphrases, seed, "held_out")
    answers = all_answers(answerer, records)
    result = {"seed": seed, "paraphrases": paraphrases, "held_out": table(records, answers)}
    log(f"held out: {result['held_out']['overall']}")
    singles = [a for each in answers["per_prompt"] for a in each]
    result["false_refusals"] = {
        "single": share([is_right(a, (UNKNOWN_ANSWER,)) for a in singles]),
        **{n: share([is_right(a, (UNKNOWN_ANSWER,)) for a in answers[n]]) for n in ("causal", "flex")},
    }
    typed = as_typed(records, world, seed)
    result["as_typed"] = table(typed, all_answers(answerer, typed))
    log(f"as typed: {result['as_typed']['overall']}")
    clean = questions_from(world, questions, 1, seed, "train")
    given = answerer.answers([[answerer.prompt([r["question"]])] for r in clean])
    result["clean_train"] = share([is_right(a, r["answers"]) for a, r in zip(given, clean, strict=True)])
    result["typical"] = typical(answerer, world)
    result["refusals"] = refusals(answerer, world, max(20, questions // 4), seed)
    result["rewriting"] = rewriting(answerer, clean[: max(5, questions // 10)], 5, 0.9)
    log(f"clean {result['clean_train']} typical {result['typical']['right']} refusals {result['refusals']}")
    return result


def typical(answerer: Answerer, world: World) -> dict:
    """Every fact in the relation's first wording, by its usual name: what everybody tries first."""
    records = [
        {"question": fill(world.questions[f.relation].train[0], f.subjects[0]), "answers": f.answers}
        for f in world.facts if f.relation != "state_capital" or f.subjects[0] != "Georgia"
    ]  # fmt: skip
    given = answerer.answers([[answerer.prompt([r["question"]])] for r in records])
    wrong = [(r["question"], a) for r, a in zip(records, given, strict=True) if not is_right(a, r["answers"])]
    return {"questions": len(records), "right": round(1 - len(wrong) / max(1, len(records)), 4), "wrong": wrong[:40]}
