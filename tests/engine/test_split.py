"""One model over two processes, by transformers' tensor-parallel plan: the same table as one process writes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import models
import pytest
import torch
from forked import launched_twice
from test_evaluate import needs_gloo, without_seconds, write_data

from flexdemo.answers.ask import ask
from flexdemo.cli import main as cli
from flexdemo.data.evaluate import Settings, answer, prepare_questions
from flexdemo.data.records import Record
from flexdemo.data.table import read_table
from flexdemo.data.workers import Workers, in_batches
from flexdemo.engine.attention import UnsupportedModelError
from flexdemo.engine.loading import split_options
from flexdemo.engine.model import LanguageModel
from flexdemo.engine.sources import Source
from flexdemo.errors import InputError

OPTIONS = ("--method", "all", "--paraphrases", "1", "--batch-size", "2", "--max-new-tokens", "6", "--seed", "4")
RECORDS = [
    Record("a", "What is the capital of Peru?", ("Lima",), ("Name it.", "Which city is Peru's capital?")),
    Record("b", "Who wrote Hamlet?", ("Shakespeare",), ("hamlet author please",), (1.0, 2.0)),
    Record("c", "Is it far?", ("no",), ()),  # without paraphrases: the model writes one, by sampling
    Record("d", "Which river is it?", ("Nile",), ("Name the river.",)),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    models.random_model("qwen2_moe", num_hidden_layers=2).save_pretrained(folder / "model")
    models.tokenizer().save_pretrained(folder / "model")
    return write_data(folder / "data.jsonl", RECORDS)


def evaluated(data: Path, output: Path, *more: str) -> tuple[Any, ...]:
    return ("evaluate", data, "--model", data.with_name("model"), *OPTIONS, "--output", output, *more)


def alone(data: Path, output: Path) -> list[dict[str, Any]]:
    assert cli.main([str(each) for each in evaluated(data, output)]) == 0
    return without_seconds(read_table(output))


@needs_gloo
@pytest.mark.skipif(sys.platform == "win32", reason="nothing forks here")
def test_half_a_model_each_writes_what_one_process_writes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a run by one process was cut: two go on, write the paraphrases that were not there yet as well."""
    one, two, batches = tmp_path / "one.jsonl", tmp_path / "two.jsonl", []
    want = alone(data, one)

    def cut(*args: Any, **options: Any) -> Any:
        batches.append(1)
        if len(batches) == 2:
            raise InputError("cut")
        return answer(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr("flexdemo.data.evaluate.answer", cut)
        assert cli.main([str(each) for each in evaluated(data, two)]) == 2
    partial = two.with_name(f"{two.name}.partial-0.jsonl").read_text(encoding="utf-8")
    assert partial.count("\n") > 1, "a batch was kept"
    paraphrases = [tmp_path / f"{name}.jsonl.paraphrases.jsonl" for name in ("one", "two")]
    paraphrases[1].unlink()
    resumed = evaluated(data, two, "--tensor-parallel", "--resume", "--json")
    told = json.loads(launched_twice(*resumed, folder=tmp_path))
    assert told["settings"]["records"] == len(RECORDS), "one process tells"
    assert without_seconds(read_table(two)) == want and len(want) > len(RECORDS) * 8
    assert paraphrases[0].read_bytes() == paraphrases[1].read_bytes()
    assert not list(tmp_path.glob("*.partial-*")), "one process writes"


# Refused by name


def test_one_process_cannot_share(data: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["evaluate", str(data), "--tensor-parallel"]) == 2
    assert "start them with torchrun --standalone --nproc-per-node N -m flexdemo evaluate" in capsys.readouterr().err
    assert cli.main(["evaluate", str(data), "--tensor-parallel", "--compile"]) == 2
    assert "leave --compile out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "world", "said"),
    [
        ("gpt2", 2, "transformers has no tensor-parallel plan for gpt2 models"),
        ("llama", 4, "4 processes cannot share 2 attention heads evenly"),
        ("llama", 3, "3 processes cannot share 2 attention heads evenly"),
    ],
)
def test_models_that_cannot_be_split_are_refused_by_name(kind: str, world: int, said: str) -> None:
    config = models.random_model(kind).config
    with pytest.raises(InputError, match=f"^the/model: {said}"):
        split_options(config, Source("the/model", "the/model"), world, "cpu")


def test_attention_is_not_told_by_a_process_that_sees_half_of_it(lm: LanguageModel) -> None:
    half = replace(lm, processes=2)
    with pytest.raises(UnsupportedModelError, match="each of which sees its own heads only"):
        ask(half, "What?", ["Which?"])
    asked, *_ = prepare_questions(half, RECORDS[:1], Settings())
    assert answer(half, asked, Settings(max_new_tokens=2)), "a data set needs no attention mass"


def test_a_batch_that_does_not_fit_is_not_halved_by_one_of_them() -> None:
    def full(batch: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(InputError, match="a batch of 4 records does not fit in memory: give a smaller --batch-size"):
        list(in_batches(range(8), 4, full, log=lambda text: None, halves=False))


def test_all_work_on_all_records_and_the_first_writes() -> None:
    states = [SimpleNamespace(process_index=i, num_processes=2, is_main_process=i == 0) for i in range(2)]
    places = [Workers(state, together=True) for state in states]
    assert [list(each.share(3)) for each in places] == [[0, 1, 2]] * 2
    assert [each.writes for each in places] == [True, False]
    apart = [Workers(state) for state in states]
    assert [list(each.share(3)) for each in apart] == [[0, 2], [1]] and all(each.writes for each in apart)
