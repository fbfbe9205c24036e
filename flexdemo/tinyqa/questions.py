"""Boundary: the questions that accuracy is measured on, clean and spoiled, known and unknown; no torch, no model.

Spoiling never touches the subject's name, so every question can still be answered by a careful reader.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from flexdemo.tinyqa import noise
from flexdemo.tinyqa.data import RELATIONS, SLOT, World, fill, normalise, questions_from

# name -> (share of words with a typo, share of words left out); no training question is spoiled as much as `strong`.
GARBLED: Mapping[str, tuple[float, float]] = {
    "light": (0.2, 0.1),
    "medium": (0.3, 0.2),
    "strong": (0.5, 0.35),
    "extreme": (0.7, 0.5),
}
STYLES: tuple[str, ...] = ("clean", "typed", *GARBLED)


def wordings_of(record: Mapping) -> list[str]:
    return [record["question"], *record["paraphrases"]]


def slotted(text: str, subject: str) -> str:
    """The wording with its slot back in place of the subject; unchanged if the subject's letters stand in it twice."""
    for name in (subject, subject[:1].upper() + subject[1:]):
        template = text.replace(name, SLOT)
        if template.count(SLOT) == 1:
            return template
    return text


def respelled(records: Sequence[Mapping], change: Callable[[str, Mapping], str]) -> list[dict]:
    changed = []
    for record in records:
        words = [change(slotted(text, record["subject"]), record) for text in wordings_of(record)]
        changed.append({**record, "question": words[0], "paraphrases": words[1:]})
    return changed


def as_typed(records: Sequence[Mapping], world: World, seed: int) -> list[dict]:
    """As visitors type: each wording with noise of its own, many inside held-out beginnings and ends."""
    rng, rates = random.Random(seed), noise.NoiseRates(clean=0.2, subject_typo=0.0)
    kinds = {r.name: r.kind for r in RELATIONS}
    before, after = world.before.held_out, world.after.held_out

    def change(template: str, record: Mapping) -> str:
        kind = kinds[record["relation"]]
        return noise.spoil(template, record["subject"], kind, rng, rates, before=before, after=after)

    return respelled(records, change)


def garbled(records: Sequence[Mapping], typos: float, drop: float, seed: int) -> list[dict]:
    """In lower case, with a typo in many words and many words missing."""
    rng = random.Random(seed)

    def change(template: str, record: Mapping) -> str:
        words = noise.drop_words(template.split(" "), rng, drop, only_small=False)
        words = [w if SLOT in w else (noise.typo(w, rng) if rng.random() < typos else w).lower() for w in words]
        return " ".join(words).replace(SLOT, record["subject"])

    return respelled(records, change)


def styled_questions(world: World, n: int, paraphrases: int, seed: int, style: str) -> list[dict]:
    """Held-out records in one of `STYLES`; the same seed gives the same facts and wordings in every style."""
    records = questions_from(world, n, paraphrases, seed, "held_out")
    if style == "clean":
        return records
    return as_typed(records, world, seed) if style == "typed" else garbled(records, *GARBLED[style], seed)


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
        about = rng.choice([r for r in RELATIONS if r.kind in world.about])
        subject = rng.choice(facts[about.name]).subjects[0]
        found["about"].append(fill(rng.choice(getattr(world.about[about.kind], split)), subject))
    return found
