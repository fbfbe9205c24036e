"""Boundary: reads and checks facts and templates and makes evaluation questions from them; no torch, no model.

The files are plain CSV and JSON so that anybody can read and extend them; `check` finds what would quietly spoil
training (a template without its slot, a held-out wording that also stands in the training list, an empty cell).
"""

from __future__ import annotations

import csv
import json
import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SLOT = "{x}"
UNKNOWN_ANSWER = "I don't know"


@dataclass(frozen=True)
class Relation:
    """One kind of question: which column is asked about, which column answers, what sort of thing the subject is."""

    name: str
    file: str
    subject: str
    answer: str
    kind: str
    # Most variants of a subject are names of one thing, but two capitals of one country are two cities.
    same_thing: bool = True


RELATIONS: tuple[Relation, ...] = (
    Relation("capital", "countries.csv", "country", "capital", "country"),
    Relation("currency", "countries.csv", "country", "currency", "country"),
    Relation("continent", "countries.csv", "country", "continent", "country"),
    Relation("language", "countries.csv", "country", "language", "country"),
    Relation("country_of_capital", "countries.csv", "capital", "country", "capital", same_thing=False),
    Relation("state_capital", "us_states.csv", "state", "capital", "state"),
    Relation("state_of_capital", "us_states.csv", "capital", "state", "state_capital", same_thing=False),
    Relation("symbol", "elements.csv", "element", "symbol", "element"),
    Relation("atomic_number", "elements.csv", "element", "number", "element"),
    Relation("element_of_symbol", "elements.csv", "symbol", "element", "symbol", same_thing=False),
    Relation("element_of_number", "elements.csv", "number", "element", "number", same_thing=False),
    Relation("author", "books.csv", "book", "author", "book"),
    Relation("painter", "paintings.csv", "painting", "painter", "painting"),
    Relation("composer", "compositions.csv", "work", "composer", "work"),
    Relation("inventor", "inventions.csv", "thing", "person", "thing"),
    Relation("discoverer", "discoveries.csv", "thing", "person", "thing"),
    Relation("river_country", "rivers.csv", "river", "country", "river"),
    Relation("mountain_country", "mountains.csv", "mountain", "country", "mountain"),
    Relation("landmark_country", "landmarks.csv", "landmark", "country", "landmark"),
)
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "countries.csv": ("country", "capital", "currency", "continent", "language"),
    "us_states.csv": ("state", "capital"),
    "elements.csv": ("element", "symbol", "number"),
    "books.csv": ("book", "author"),
    "paintings.csv": ("painting", "painter"),
    "compositions.csv": ("work", "composer"),
    "inventions.csv": ("thing", "person"),
    "discoveries.csv": ("thing", "person"),
    "rivers.csv": ("river", "country"),
    "mountains.csv": ("mountain", "country"),
    "landmarks.csv": ("landmark", "country"),
}
ABOUT_KINDS = ("country", "state", "element", "book", "painting", "work", "thing", "river", "mountain", "landmark")
# Relations that share wordings, so that one subject name ("Georgia") may rightly be answered in more than one way.
TWINS: tuple[tuple[str, ...], ...] = (("capital", "state_capital"), ("country_of_capital", "state_of_capital"))


@dataclass(frozen=True)
class Fact:
    """One fact as a question-answer pair: names of the subject, every right answer, the usual ones first."""

    relation: str
    kind: str
    subjects: tuple[str, ...]
    answers: tuple[str, ...]
    same_thing: bool = True


@dataclass(frozen=True)
class Wordings:
    """Ways to say one thing: those the model is trained on and those it is only ever measured on."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """Everything on disk, read once."""

    facts: tuple[Fact, ...]
    questions: Mapping[str, Wordings]
    about: Mapping[str, Wordings]
    general: Wordings
    before: Wordings
    after: Wordings

    def by_relation(self) -> dict[str, list[Fact]]:
        grouped: dict[str, list[Fact]] = {}
        for fact in self.facts:
            grouped.setdefault(fact.relation, []).append(fact)
        return grouped


def normalise(text: str) -> str:
    """What two wordings or names have in common: as for answers, but contractions count as their long forms."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(c for c in plain if not unicodedata.combining(c)).replace("{x}", " subject ")
    plain = plain.replace("\u2019", "'").replace("what's", "what is").replace("who's", "who is").replace("'", "")
    words = re.sub(r"[\W_]+", " ", plain).split()
    return " ".join(w for w in words if w not in ("a", "an", "the"))


def split_cell(cell: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in cell.split("|") if part.strip())


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _wordings(raw: Mapping[str, Sequence[str]]) -> Wordings:
    return Wordings(tuple(dict.fromkeys(raw["train"])), tuple(dict.fromkeys(raw["held_out"])))


def load_facts(folder: Path) -> tuple[Fact, ...]:
    facts: list[Fact] = []
    for relation in RELATIONS:
        merged: dict[str, Fact] = {}
        for row in _read_csv(folder / relation.file):
            subjects, answers = split_cell(row[relation.subject]), split_cell(row[relation.answer])
            if not subjects or not answers:
                continue  # `check` reports it; a country without a second name for its capital must not stop training
            known = merged.get(subjects[0])
            if known is not None:  # the same title twice: both answers are right, the earlier one is taught
                subjects = tuple(dict.fromkeys(known.subjects + subjects))
                answers = tuple(dict.fromkeys(known.answers + answers))
            merged[subjects[0]] = Fact(relation.name, relation.kind, subjects, answers, relation.same_thing)
        facts.extend(merged.values())
    return tuple(facts)


def load_world(folder: Path | None = None) -> World:
    """Reads `facts/` and `templates/` (by default those beside this module)."""
    root = folder or Path(__file__).parent
    templates = root / "templates"
    unknown, wrappers = _read_json(templates / "unknown.json"), _read_json(templates / "wrappers.json")
    return World(
        facts=load_facts(root / "facts"),
        questions={r.name: _wordings(_read_json(templates / f"{r.name}.json")) for r in RELATIONS},
        about={kind: _wordings(raw) for kind, raw in unknown["about"].items()},
        general=_wordings(unknown["general"]),
        before=_wordings(wrappers["before"]),
        after=_wordings(wrappers["after"]),
    )


def fill(template: str, subject: str) -> str:
    """Puts the subject into its slot; a sentence that begins with it begins with a capital letter."""
    text = template.replace(SLOT, subject)
    if template.startswith(SLOT) and any(c in template for c in ".?!,"):
        text = text[:1].upper() + text[1:]
    return text


def fits(fact: Fact, template: str, doubtful: frozenset[str]) -> bool:
    """False where the wording leaves open which of two things of one name is meant (Georgia: state or country)."""
    if fact.relation not in ("state_capital", "state_of_capital") or not doubtful.intersection(fact.subjects):
        return True
    return re.search(r"\b(state|states|US|U\.S\.|USA|American?|governor)\b", template) is not None


def doubtful_names(facts: Sequence[Fact]) -> frozenset[str]:
    """Subject names that two relations of one group of twins share."""
    seen: dict[tuple[int, str], str] = {}
    doubtful: set[str] = set()
    for fact in facts:
        for group, members in enumerate(TWINS):
            if fact.relation in members:
                for name in fact.subjects:
                    if seen.setdefault((group, name), fact.relation) != fact.relation:
                        doubtful.add(name)
    return frozenset(doubtful)


def accepted_answers(world: World, fact: Fact, subject: str) -> list[str]:
    """Right answers for this name, including those of another thing of that name if the wording allows either."""
    answers = list(fact.answers)
    twins = next((m for m in TWINS if fact.relation in m), ())
    for other in world.facts:
        if other.relation in twins and other is not fact and subject in other.subjects:
            answers.extend(other.answers)
    return list(dict.fromkeys(answers))


def _spread(world: World, n: int, rng: random.Random) -> list[Fact]:
    """n facts, the relations taking turns, none twice before its relation is used up."""
    pools = {name: rng.sample(facts, len(facts)) for name, facts in world.by_relation().items()}
    names, used, chosen = list(pools), dict.fromkeys(pools, 0), []
    while len(chosen) < n:
        for name in names[: n - len(chosen)]:
            pool = pools[name]
            chosen.append(pool[used[name] % len(pool)])
            used[name] += 1
    return chosen


def questions_from(world: World, n: int, paraphrases: int, seed: int, split: str) -> list[dict]:
    """Evaluation records: `paraphrases` clean wordings of one split (`train` or `held_out`) that ask for one fact."""
    rng = random.Random(seed)
    doubtful, records = doubtful_names(world.facts), []
    for number, fact in enumerate(_spread(world, n, rng)):
        subject = fact.subjects[0] if rng.random() < 0.7 else rng.choice(fact.subjects)
        pool = [t for t in getattr(world.questions[fact.relation], split) if fits(fact, t, doubtful)]
        asked = [fill(t, subject) for t in rng.sample(pool, min(paraphrases, len(pool)))]
        if len(asked) < paraphrases:
            continue
        record_id = f"{split}-{seed}-{number}"
        records.append({"id": record_id, "question": asked[0], "paraphrases": asked[1:], "relation": fact.relation,
                        "answers": accepted_answers(world, fact, subject), "subject": subject})  # fmt: skip
    return records


def check(folder: Path | None = None) -> list[str]:
    """Every defect of the files on disk, in words; empty when all is well."""
    root = folder or Path(__file__).parent
    problems: list[str] = []
    for name, columns in COLUMNS.items():
        problems += _check_csv(root / "facts" / name, columns)
    lists: list[tuple[str, Path, object, int]] = []
    for relation in RELATIONS:
        lists.append((relation.name, root / "templates" / f"{relation.name}.json", None, 1))
    lists += [(f"about.{k}", root / "templates" / "unknown.json", ("about", k), 1) for k in ABOUT_KINDS]
    lists.append(("general", root / "templates" / "unknown.json", ("general",), 0))
    lists += [(f"{k}", root / "templates" / "wrappers.json", (k,), 0) for k in ("before", "after")]
    for label, path, keys, slots in lists:
        problems += _check_wordings(label, path, keys or (), slots)
    return problems


def _check_csv(path: Path, columns: tuple[str, ...]) -> list[str]:
    if not path.is_file():
        return [f"{path.name}: missing"]
    problems: list[str] = []
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.reader(handle))
    if not rows or tuple(rows[0]) != columns:
        return [f"{path.name}: header must be {','.join(columns)}"]
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(columns):
            problems.append(f"{path.name} row {line}: {len(row)} cells, {len(columns)} expected")
        elif not all(split_cell(cell) for cell in row):
            problems.append(f"{path.name} row {line}: an empty cell")
        elif any(part != part.strip() or not part for cell in row for part in cell.split("|")):
            problems.append(f"{path.name} row {line}: a name with spaces around it, or an empty name")
    subjects = [row[0].split("|")[0] for row in rows[1:] if row]
    problems += [f"{path.name}: {s!r} stands twice" for s in sorted({s for s in subjects if subjects.count(s) > 1})]
    return problems


def _check_wordings(label: str, path: Path, keys: tuple[str, ...], slots: int) -> list[str]:
    if not path.is_file():
        return [f"{path.name}: missing"]
    try:
        raw = _read_json(path)
        for key in keys:
            raw = raw[key]
        train, held_out = list(raw["train"]), list(raw["held_out"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        return [f"{path.name} {label}: not readable as train and held_out lists ({error})"]
    problems = []
    for text in train + held_out:
        if text.count(SLOT) != slots or text.replace(SLOT, "").count("{"):
            problems.append(f"{path.name} {label}: {text!r} must hold {{x}} {'exactly once' if slots else 'nowhere'}")
    shared = {normalise(t) for t in train} & {normalise(t) for t in held_out}
    problems += [f"{path.name} {label}: {text!r} is both trained and held out" for text in sorted(shared)]
    if label in {r.name for r in RELATIONS} and (len(train) < 20 or len(held_out) < 10):
        problems.append(f"{path.name}: {len(train)} train and {len(held_out)} held-out wordings, 20 and 10 needed")
    return problems
