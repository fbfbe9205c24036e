"""Boundary: measures a saved model on the questions of `questions`, by dense masks made from the ids; writes no files.

Two ways to one number: `all_answers` shares no attention code with the engine, `engine_answers` is the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from flexdemo.answers.ask import ask
from flexdemo.answers.metrics import exact_match
from flexdemo.engine.model import LanguageModel
from flexdemo.tinyqa.data import (
    UNKNOWN_ANSWER,
    World,
    accepted_answers,
    fill,
    load_world,
    normalise,
    questions_from,
)
from flexdemo.tinyqa.model import attention_bias
from flexdemo.tinyqa.questions import STYLES, styled_questions, unknown_questions, wordings_of
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
    """A loaded model and how many tokens it takes at a time."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    tokens: int = 16_000
    longest: int = 20

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def prompt(self, wordings: Sequence[str], suffix: str = "A:", prefix: str = "", **scheme: bool) -> Pack:
        start = [self.tokenizer.bos_token_id, *(self.encode(prefix) if prefix else ())]
        return pack(start, [self.encode(f"Q: {w}\n") for w in wordings], self.encode(suffix), **scheme)

    def answers(
        self, groups: Sequence[Sequence[Pack]], temperature: float = 0.0, longest: int | None = None
    ) -> list[str]:
        """One answer for each group of prompts, whose logits are averaged; a group of one answers for itself."""
        sizes = [max(len(p.ids) for p in group) for group in groups]
        found, batch, size = [""] * len(groups), [], 0
        for g in [*sorted(range(len(groups)), key=sizes.__getitem__), -1]:
            cost = 0 if g < 0 else len(groups[g]) * sizes[g]
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
        prompts = [p for group in groups for p in group]
        owner = torch.tensor([g for g, group in enumerate(groups) for _ in group], device=device)
        count, width = len(prompts), max(len(p.ids) for p in prompts)
        rows = empty_rows(count, width, self.tokenizer.pad_token_id)
        for row, prompt in enumerate(prompts):
            place(rows, row, 0, 0, prompt)
        batch = {name: torch.from_numpy(array).to(device) for name, array in vars(rows).items()}
        bias = attention_bias(batch["examples"], batch["segments"], batch["log_weights"], torch.float32)
        last = torch.tensor([len(p.ids) - 1 for p in prompts], device=device)
        every = torch.arange(count, device=device)
        # What the suffix's last token sees, every later token sees too: its row of the bias, then the answer so far.
        seen, positions = bias[every, :, last][:, :, None], batch["positions"][every, last].long()[:, None]
        cache, ids, places, pick = DynamicCache(), batch["ids"].long(), batch["positions"].long(), last
        written: list[list[int]] = [[] for _ in groups]
        for step in range(1, longest + 1):
            states = self.model.model(
                input_ids=ids, attention_mask=bias, position_ids=places, past_key_values=cache, use_cache=True
            ).last_hidden_state
            logits = self.model.lm_head(states[every, pick]).float()
            mean = torch.zeros(len(groups), logits.shape[1], device=device).index_add_(0, owner, logits)
            mean /= torch.bincount(owner)[:, None]
            if temperature:
                tokens = torch.multinomial(torch.softmax(mean / temperature, -1), 1)[:, 0]
            else:
                tokens = mean.argmax(-1)
            for ids_of, token in zip(written, tokens.tolist(), strict=True):
                if end not in ids_of:
                    ids_of.append(token)
            if all(end in ids_of for ids_of in written):
                break
            ids, places, pick = tokens[owner][:, None], positions + step, torch.zeros_like(last)
            bias = torch.cat([seen, seen.new_zeros(count, 1, 1, step)], -1)
        return [self.tokenizer.decode(i, skip_special_tokens=True).split("\n")[0].strip() for i in written]


def share(flags: Sequence[bool]) -> float:
    return round(sum(flags) / len(flags), 4) if flags else 0.0


def all_answers(answerer: Answerer, records: Sequence[Mapping]) -> dict[str, list]:
    """Answers by every method; `per_prompt` holds a list for each record."""
    counts = [len(wordings_of(r)) for r in records]
    alone = [answerer.prompt([w]) for r in records for w in wordings_of(r)]
    flat, rows = iter(answerer.answers([[p] for p in alone])), iter(alone)
    per_prompt = [[next(flat) for _ in range(c)] for c in counts]
    found: dict[str, list] = {"per_prompt": per_prompt, "origin": [a[0] for a in per_prompt]}
    for name, scheme in FUSIONS.items():
        found[name] = answerer.answers([[answerer.prompt(wordings_of(r), **scheme)] for r in records])
    found["avg"] = answerer.answers([[next(rows) for _ in range(c)] for c in counts])
    return found


def engine_answers(lm: LanguageModel, records: Sequence[Mapping]) -> dict[str, list]:
    """The same by the engine's public `ask`, one record at a time and without the logit average."""
    found: dict[str, list] = {name: [] for name in ("per_prompt", "origin", *FUSIONS)}
    for record in records:
        asked = (lm, record["question"], record["paraphrases"])
        result = ask(*asked, methods=("flex", "origin", "per_prompt", "causal"), mass=False)
        for name in ("flex", "origin", "causal"):
            found[name].append(result[name].answer)
        found["per_prompt"].append([view.answer for view in result["per_prompt"].views])
        for name, positions in (("segment_sequential", "sequential"), ("segment_aligned", "aligned")):
            raw = ask(*asked, methods=("flex",), positions=positions, weights="raw", mass=False)
            found[name].append(raw["flex"].answer)
    return found


def table(records: Sequence[Mapping], answers: Mapping[str, list]) -> dict:
    """Share of right answers for every method, over all records and for each relation."""
    right: dict[str, list[list[bool]]] = {}
    for name, given in answers.items():
        many = [g if isinstance(g, list) else [g] for g in given]
        key = "mean_single" if name == "per_prompt" else name
        right[key] = [[exact_match(a, r["answers"]) for a in each] for each, r in zip(many, records, strict=True)]
    overall = {name: share([ok for each in rows for ok in each]) for name, rows in right.items()}
    relations = {}
    for relation in dict.fromkeys(r["relation"] for r in records):
        at = [i for i, r in enumerate(records) if r["relation"] == relation]
        parts = {name: share([ok for i in at for ok in rows[i]]) for name, rows in right.items()}
        relations[relation] = {"questions": len(at), **parts}
    return {"questions": len(records), "overall": overall, "relations": relations}


def refused(answers: Sequence[str]) -> float:
    return share([exact_match(a, (UNKNOWN_ANSWER,)) for a in answers])


def refusals(answerer: Answerer, world: World, count: int, seed: int) -> dict[str, float]:
    """How often a question without an answer is refused, in trained and in held-out wordings."""
    rates = {}
    for split in ("train", "held_out"):
        for name, questions in unknown_questions(world, count, seed, split).items():
            rates[f"{name}_{split}"] = refused(answerer.answers([[answerer.prompt([q])] for q in questions]))
    return rates


def rewriting(answerer: Answerer, records: Sequence[Mapping], tries: int, temperature: float) -> dict:
    """Samples paraphrases: how many keep the subject, are new, differ from each other and get the right answer."""
    prompts = [[answerer.prompt([r["question"]], suffix="P:", causal=True)] for r in records for _ in range(tries)]
    flat = iter(answerer.answers(prompts, temperature=temperature, longest=48))
    kept, new, distinct, written = [], [], [], []
    for record in records:
        texts = [next(flat) for _ in range(tries)]
        kept += [normalise(record["subject"]) in normalise(text) for text in texts]
        new += [normalise(text) != normalise(record["question"]) for text in texts]
        distinct.append(len({normalise(text) for text in texts}) / tries)
        written.append(texts)
    answers = iter(answerer.answers([[answerer.prompt([text])] for texts in written for text in texts]))
    right = [exact_match(next(answers), r["answers"]) for r in records for _ in range(tries)]
    return {
        "questions": len(records), "each": tries, "temperature": temperature,
        "keeps_subject": share(kept), "new": share(new), "answered_right": share(right),
        "distinct": round(sum(distinct) / max(1, len(distinct)), 4),
        "samples": [{"question": r["question"], "written": w} for r, w in zip(records[:8], written, strict=False)],
    }  # fmt: skip


def typical(answerer: Answerer, world: World) -> dict:
    """Every fact in its relation's first wording, by its usual name: what everybody tries first."""
    records = [
        {
            "question": fill(world.questions[f.relation].train[0], f.subjects[0]),
            "answers": accepted_answers(world, f, f.subjects[0]),
        }
        for f in world.facts
    ]
    given = answerer.answers([[answerer.prompt([r["question"]])] for r in records])
    wrong = [(r["question"], a) for r, a in zip(records, given, strict=True) if not exact_match(a, r["answers"])]
    right = round(1 - len(wrong) / max(1, len(records)), 4)
    return {"questions": len(records), "right": right, "wrong": wrong[:40]}


def report(
    answerer: Answerer, questions: int, paraphrases: int, seed: int, styles: Sequence[str] = STYLES,
    folder: Path | None = None, log: Callable[[str], None] = lambda _: None, lm: LanguageModel | None = None,
) -> dict:  # fmt: skip
    """Everything that is measured, as one JSON-ready object; with `lm` the table is answered by the engine."""
    world = load_world(folder)
    torch.manual_seed(seed)
    attention = "engine" if lm else "dense"
    result: dict = {
        "seed": seed,
        "paraphrases": paraphrases,
        "attention": attention,
        "held_out": {},
        "false_refusals": {},
    }
    for style in styles:
        records = styled_questions(world, questions, paraphrases, seed, style)
        answers = engine_answers(lm, records) if lm else all_answers(answerer, records)
        result["held_out"][style] = table(records, answers)
        answers["mean_single"] = [a for each in answers.pop("per_prompt") for a in each]
        result["false_refusals"][style] = {name: refused(given) for name, given in answers.items()}
        log(f"{style}: {result['held_out'][style]['overall']}")
    trained = questions_from(world, questions, 1, seed, "train")
    given = answerer.answers([[answerer.prompt([r["question"]])] for r in trained])
    result["clean_train"] = share([exact_match(a, r["answers"]) for a, r in zip(given, trained, strict=True)])
    result["typical"] = typical(answerer, world)
    result["refusals"] = refusals(answerer, world, max(20, questions // 4), seed)
    result["rewriting"] = rewriting(answerer, trained[: max(5, questions // 10)], 5, 0.9)
    log(f"trained wordings {result['clean_train']}, typical {result['typical']['right']}")
    log(f"refusals {result['refusals']}")
    return result


def render(result: Mapping) -> str:
    """The report for a reader: a table of right answers, a line for each of the rest."""
    styles = result["held_out"]
    names = list(dict.fromkeys(name for each in styles.values() for name in each["overall"]))
    lines = ["held-out wordings, share right", " " * 20 + "".join(f"{style:>10}" for style in styles)]
    for name in names:
        lines.append(f"{name:<20}" + "".join(f"{each['overall'][name]:>10.3f}" for each in styles.values()))
    lines.append(f"{'questions':<20}" + "".join(f"{each['questions']:>10}" for each in styles.values()))
    for relation in next(iter(styles.values()))["relations"]:
        flex = [each["relations"][relation]["flex"] for each in styles.values()]
        lines.append(f"  flex, {relation:<18}"[:26].ljust(20) + "".join(f"{value:>10.3f}" for value in flex))
    lines.append(f"trained wordings, clean: {result['clean_train']}")
    lines.append(f"every fact in its first wording: {result['typical']['right']} of {result['typical']['questions']}")
    lines += [f"  wrong: {question} -> {answer}" for question, answer in result["typical"]["wrong"]]
    lines.append("refused, as it should: " + ", ".join(f"{k} {v}" for k, v in result["refusals"].items()))
    for style, rates in result["false_refusals"].items():
        lines.append(f"refused wrongly, {style}: single {rates['mean_single']}, flex {rates['flex']}")
    written = {k: v for k, v in result["rewriting"].items() if k != "samples"}
    lines.append("paraphrases written: " + ", ".join(f"{k} {v}" for k, v in written.items()))
    return "\n".join(lines)
