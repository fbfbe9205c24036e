"""Boundary: makes more training wordings by rule from the hand-written ones; pure text, no files, no torch.

Two rules: small exchanges inside a wording ("What is" becomes "What's"), and frames, which put a noun phrase or an
embedded clause of a relation into generic beginnings ("I'd like to know {clause}."). Whatever coincides with a
held-out wording, apart from case, punctuation and contractions, is thrown away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flexdemo.tinyqa.data import RELATIONS, SLOT, Wordings, World, normalise


@dataclass(frozen=True)
class Phrases:
    """Building blocks of a relation: noun phrases, embedded clauses, and who or what the noun phrase stands for."""

    nouns: tuple[str, ...]
    clauses: tuple[str, ...]
    pronoun: str = "What"


PHRASES: Mapping[str, Phrases] = {
    "capital": Phrases(
        ("the capital of {x}", "{x}'s capital", "the capital city of {x}", "{x}'s capital city"),
        ("what the capital of {x} is", "which city is the capital of {x}", "which city {x} has as its capital"),
    ),
    "currency": Phrases(
        ("the currency of {x}", "{x}'s currency", "the money used in {x}", "the official currency of {x}"),
        ("what currency is used in {x}", "which money people use in {x}", "what currency {x} uses"),
    ),
    "continent": Phrases(
        ("the continent of {x}", "{x}'s continent", "the continent {x} is on", "the continent where {x} lies"),
        ("which continent {x} is on", "what continent {x} belongs to", "on which continent {x} lies"),
    ),
    "language": Phrases(
        ("the language of {x}", "{x}'s language", "the official language of {x}", "the language spoken in {x}"),
        ("what language is spoken in {x}", "which language people in {x} speak", "what they speak in {x}"),
    ),
    "country_of_capital": Phrases(
        (
            "the country whose capital is {x}",
            "the country with the capital {x}",
            "the nation whose capital city is {x}",
        ),
        ("which country has {x} as its capital", "what country {x} is the capital of", "whose capital {x} is"),
    ),
    "state_capital": Phrases(
        ("the state capital of {x}", "the capital of the state of {x}", "the capital of the US state {x}"),
        ("what the state capital of {x} is", "which city is the capital of the state of {x}"),
    ),
    "state_of_capital": Phrases(
        (
            "the US state whose capital is {x}",
            "the state with the capital {x}",
            "the American state whose capital is {x}",
        ),
        ("which US state has {x} as its capital", "what state {x} is the capital of"),
    ),
    "symbol": Phrases(
        ("the chemical symbol of {x}", "the symbol for {x}", "{x}'s chemical symbol", "the abbreviation for {x}"),
        ("what the symbol for {x} is", "which symbol {x} has", "how {x} is written in the periodic table"),
    ),
    "atomic_number": Phrases(
        ("the atomic number of {x}", "{x}'s atomic number", "the number of protons in {x}", "the proton number of {x}"),
        ("what the atomic number of {x} is", "how many protons {x} has", "which atomic number {x} has"),
    ),
    "element_of_symbol": Phrases(
        ("the element with the symbol {x}", "the element whose symbol is {x}", "the name of the element {x}"),
        ("which element has the symbol {x}", "what element {x} stands for", "what {x} means in the periodic table"),
    ),
    "element_of_number": Phrases(
        ("the element with atomic number {x}", "element number {x}", "the element with {x} protons"),
        ("which element has atomic number {x}", "what element number {x} is", "which element has {x} protons"),
    ),
    "author": Phrases(
        ("the author of {x}", "the writer of {x}", "{x}'s author", "the person who wrote {x}"),
        ("who wrote {x}", "who the author of {x} is", "by whom {x} was written"),
        "Who",
    ),
    "painter": Phrases(
        ("the painter of {x}", "the artist of {x}", "{x}'s painter", "the artist who painted {x}"),
        ("who painted {x}", "who the painter of {x} is", "by whom {x} was painted"),
        "Who",
    ),
    "composer": Phrases(
        ("the composer of {x}", "{x}'s composer", "the person who composed {x}", "the musician who wrote {x}"),
        ("who composed {x}", "who wrote the music of {x}", "by whom {x} was composed"),
        "Who",
    ),
    "inventor": Phrases(
        ("the inventor of {x}", "the person who invented {x}", "the man or woman who invented {x}"),
        ("who invented {x}", "who came up with {x}", "by whom {x} was invented"),
        "Who",
    ),
    "discoverer": Phrases(
        ("the discoverer of {x}", "the person who discovered {x}", "the scientist who discovered {x}"),
        ("who discovered {x}", "who first found {x}", "by whom {x} was discovered"),
        "Who",
    ),
    "river_country": Phrases(
        ("the country of {x}", "the country where {x} flows", "the country {x} runs through"),
        ("which country {x} is in", "what country {x} flows through", "where {x} flows"),
        "Which country",
    ),
    "mountain_country": Phrases(
        ("the country of {x}", "the country where {x} stands", "the country {x} is in"),
        ("which country {x} is in", "in what country {x} is", "where {x} is"),
        "Which country",
    ),
    "landmark_country": Phrases(
        ("the country of {x}", "the country where {x} stands", "the home country of {x}"),
        ("which country {x} is in", "in what country I can see {x}", "where {x} is"),
        "Which country",
    ),
}
NOUN_FRAMES = (
    "{pronoun} is {n}?", "{n}?", "{n}", "{n} is", "Tell me {n}.", "Name {n}.", "Give me {n}.", "State {n}.",
    "Can you name {n}?", "Could you tell me {n}?", "Do you know {n}?", "Please give {n}.", "I'm looking for {n}.",
    "I need {n}.", "I'd like to know {n}.", "Remind me of {n}.", "Identify {n}.", "May I ask for {n}?",
    "{pronoun} would {n} be?", "I can't think of {n}.", "Any idea about {n}?", "Help me find {n}.",
    "Say {n}.", "I want {n}.", "Let's talk about {n}: {pronoun} is it?", "I was asked for {n}.", "So {n} is",
    "{pronoun} was {n} again?", "You surely know {n}.", "I have to write down {n}.", "We call {n}",
    "My question is about {n}.", "Fill in: {n} is", "Quiz: {n}?", "Do you happen to know {n}?",
)  # fmt: skip
CLAUSE_FRAMES = (
    "Do you know {c}?", "Tell me {c}.", "Can you tell me {c}?", "I wonder {c}.", "I'd like to know {c}.",
    "I forgot {c}.", "Any idea {c}?", "Could you say {c}?", "Please tell me {c}.", "I was wondering {c}.",
    "Help me remember {c}.", "I can't recall {c}.", "Find out {c}.", "My son asked {c}.", "Let me know {c}.",
    "I want to find out {c}.", "Would you happen to know {c}?", "It would be nice to know {c}.", "Explain {c}.",
    "Someone has to tell me {c}.", "Nobody here knows {c}.", "I should know {c}, but I don't.", "Say {c}.",
    "Are you able to tell me {c}?", "The question is {c}.", "Guess {c}.", "I have no clue {c}.", "Is it known {c}?",
    "Let's see if you know {c}.", "We could not agree on {c}.", "Show me that you know {c}.",
)  # fmt: skip
# (pattern, replacements): each match is exchanged once to make one more wording.
EXCHANGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"^What is\b", ("What's", "Whats", "What would be", "So what is", "What exactly is")),
    (r"^Who is\b", ("Who's", "Whos", "Who exactly is")),
    (r"^Which\b", ("What", "And which", "So which")),
    (r"^What (?=city|country|language|continent|currency|element|state|person|artist|nation)", ("Which ", "And what ")),
    (
        r"^Who (?=wrote|painted|composed|invented|discovered|created|made)",
        ("Which person ", "So who ", "Who was it that "),
    ),
    (r"^Name\b", ("Give me", "Tell me", "Write down", "Just name")),
    (r"^Tell me\b", ("Let me know", "Please tell me", "Just tell me", "Say")),
    (r"^(Can|Could) you tell me\b", ("Would you tell me", "Could you say", "Can you let me know", "Tell me")),
    (r"^Do you know\b", ("Do you remember", "Can you say", "Would you know", "Any idea")),
    (r"^I would like to know\b", ("I'd like to know", "I want to know", "I'd love to know")),
    (r"\bcountry\b", ("nation", "land")),
    (r"\bcapital city\b", ("capital",)),
    (r"\bauthor\b", ("writer",)),
    (r"\bwriter\b", ("author",)),
    (r"\bpainter\b", ("artist",)),
    (r"\blocated\b", ("situated", "found")),
    (r"\bcurrency\b", ("money",)),
    (r"\bchemical symbol\b", ("symbol", "chemical abbreviation")),
    (r"\bpiece of music\b", ("musical work", "music")),
    (r"\bI need\b", ("I want", "I'm looking for")),
    (r"\bplease\b", ("kindly",)),
)


def exchanged(template: str) -> list[str]:
    """The wording with one exchange made, in every possible way; the subject's slot is never touched."""
    found = []
    for pattern, replacements in EXCHANGES:
        match = re.search(pattern, template)
        if match:
            found += [template[: match.start()] + r + template[match.end() :] for r in replacements]
    return found


def framed(phrases: Phrases) -> list[str]:
    found = []
    for noun in phrases.nouns:
        for frame in NOUN_FRAMES:
            # In the middle of a sentence "who", at its start "Who".
            pronoun = phrases.pronoun if frame.startswith("{pronoun}") else phrases.pronoun.lower()
            found.append(frame.replace("{pronoun}", pronoun).replace("{n}", noun))
    for clause in phrases.clauses:
        found += [frame.replace("{c}", clause) for frame in CLAUSE_FRAMES]
        if phrases.pronoun == "Who" and clause.startswith("who ") and not clause.endswith(" is"):
            found.append(f"{clause}?")
    return [text[:1].upper() + text[1:] if text[-1] in ".?" else text for text in found]


def without_held_out(candidates: Sequence[str], held_out: Sequence[str]) -> tuple[str, ...]:
    forbidden = {normalise(text) for text in held_out}
    return tuple(dict.fromkeys(text for text in candidates if normalise(text) not in forbidden))


@dataclass(frozen=True)
class TrainingWordings:
    """Wordings of one relation to train on, by origin."""

    written: tuple[str, ...]
    exchanged: tuple[str, ...]
    framed: tuple[str, ...]


def training_wordings(world: World) -> dict[str, TrainingWordings]:
    """For every relation its hand-written wordings and those made by rule, none of them held out."""
    made: dict[str, TrainingWordings] = {}
    for relation in RELATIONS:
        source: Wordings = world.questions[relation.name]
        swaps = [new for text in source.train for new in exchanged(text) if new.count(SLOT) == 1]
        made[relation.name] = TrainingWordings(
            written=without_held_out(source.train, source.held_out),
            exchanged=without_held_out(swaps, source.held_out),
            framed=without_held_out(framed(PHRASES[relation.name]), source.held_out),
        )
    return made
