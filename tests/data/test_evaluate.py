"""Data sets through methods: batches, resuming, memory, processes, and the command itself."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import families
import models
import pandas
import pytest
import torch
from forked import Forked

from flexdemo.answers.ask import ask
from flexdemo.answers.methods import METHODS
from flexdemo.cli import main as cli
from flexdemo.data import evaluate
from flexdemo.data.evaluate import Settings, answer, prepare_questions, rewrite, settings_dict, shorten
from flexdemo.data.journal import Journal
from flexdemo.data.records import Record, read_records
from flexdemo.data.table import read_table
from flexdemo.data.workers import Workers, in_batches
from flexdemo.engine.loading import load_model
from flexdemo.engine.model import LanguageModel, prepare
from flexdemo.errors import InputError

RECORDS = [
    Record("a", "What is the capital of Peru?", ("Lima",), ("Name it.", "Which city is Peru's capital?")),
    Record("b", "Who wrote Hamlet?", ("Shakespeare",), ("hamlet author please, I would very much like to know it",)),
    Record("c", "Is it far?", ("no",), ("far?", "Far, is it?", "How far is it then?"), (1.0, 0.0, 2.0, 1.0)),
    Record("d", "What?", ("this",), ("What is this thing called, and who was the first to see it?",)),
]
ROOT = Path(__file__).resolve().parents[2]
needs_gloo = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="torch has no gloo here: two processes on a CPU cannot talk",
)


def without_seconds(table: pandas.DataFrame) -> list[dict[str, Any]]:
    return json.loads(table.drop(columns="seconds").to_json(orient="records"))


def write_data(path: Path, records: Sequence[Record] = RECORDS) -> Path:
    evaluate.RECORDS.write(records, path)
    return path


def test_each_row_is_what_asking_alone_gives(lm: LanguageModel) -> None:
    """All methods, questions of different lengths and numbers of wordings in one batch, against one request each."""
    settings = Settings(methods=tuple(METHODS), max_new_tokens=6)
    asked, problems, _ = prepare_questions(lm, RECORDS, settings)
    assert problems == []
    for record, rows in zip(RECORDS, answer(lm, asked, settings), strict=True):
        alone = ask(lm, record.question, record.paraphrases, methods=["all"], weights=record.weights, max_new_tokens=6)
        expected = []
        for method in alone.results:
            if method.method in ("per_prompt", "leave_one_out"):
                expected += [(method.method, v.name, v.answer, v.generation, len(v.token_ids)) for v in method.views]
            else:
                answered = (method.answer, method.generation, len(method.token_ids))
                expected.append((method.method, method.method, *answered))
        assert [(r.method, r.view, r.prediction, r.generation, r.tokens) for r in rows] == expected
        single = [view.answer for view in alone["per_prompt"].views]
        for row in rows:
            said = [r.prediction for r in rows if r.method == "per_prompt"]
            assert said == single and row.agreement == sum(s == row.prediction for s in single) / len(single)


@pytest.mark.parametrize(
    "options", [{}, {"mask": "causal", "positions": "sequential"}, {"ape_temperature": 0.7, "ape_scale": 1.2}], ids=str
)
def test_answers_do_not_depend_on_the_batch(lm: LanguageModel, options: dict) -> None:
    settings = Settings(methods=("flex", "avg", "causal"), max_new_tokens=8, prefix="Answer briefly.", **options)
    asked, *_ = prepare_questions(lm, RECORDS, settings)
    together = answer(lm, asked, settings)
    turned = answer(lm, asked[::-1], settings)[::-1]
    for i, question in enumerate(asked):
        (alone,) = answer(lm, [question], settings)
        for rows in (together[i], turned[i]):
            assert [row.generation for row in rows] == [row.generation for row in alone]


def test_costs_count_what_each_view_reads(lm: LanguageModel) -> None:
    asked, *_ = prepare_questions(lm, RECORDS[:1], Settings(methods=("flex", "per_prompt", "avg")))
    (rows,) = answer(lm, asked, Settings(methods=("flex", "per_prompt", "avg")))
    prefix, *paraphrases, suffix = (len(segment) for segment in asked[0].prompt.segments)
    own = [prefix + each + suffix for each in paraphrases]
    assert [row.prompt_tokens for row in rows] == [prefix + sum(paraphrases) + suffix, *own, sum(own)]
    assert [row.rows for row in rows] == [1, 1, 1, 1, 3]
    assert all(row.seconds > 0 for row in rows)


def test_records_that_cannot_be_asked_are_named(lm: LanguageModel) -> None:
    long = Record("long", "why? " * 3000, ("x",))
    asked, problems, _ = prepare_questions(lm, [RECORDS[0], long], Settings())
    assert asked[0] is not None and asked[1] is None
    assert len(problems) == 1 and "record 'long': prompt and answer need" in problems[0]


def test_a_record_without_a_wording_that_the_mask_names_is_told(lm: LanguageModel) -> None:
    """Before anything is answered; the others can be, and so can methods that do not read under it."""
    given = [Record("a", "What?", ("this",), ("Name it.",)), Record("lone", "Who?", ("she",))]
    named = Settings(mask="segment+P2>P1")
    asked, problems, _ = prepare_questions(lm, given, named)
    assert asked[0] is not None and asked[1] is None
    assert len(problems) == 1 and problems[0].startswith("record 'lone': '+P2>P1'") and "names P2" in problems[0]
    assert prepare_questions(lm, given, named.but(methods=("origin", "causal")))[1] == []


NO_ROOM = {
    "gpu": torch.OutOfMemoryError("no room"),
    "gpu shared with other programs": torch.AcceleratorError("CUDA error: out of memory\nSearch for it in the docs"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    "python": MemoryError(),
}


@pytest.mark.parametrize("error", NO_ROOM.values(), ids=NO_ROOM)
def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(error: Exception) -> None:
    tried: list[int] = []

    def work(batch: Sequence[int]) -> dict[int, tuple]:
        tried.append(len(batch))
        if len(batch) > 2:
            raise error
        return {i: (i,) for i in batch}

    said: list[str] = []
    made = [i for batch, _ in in_batches(range(10), 8, work, log=said.append) for i in batch]
    assert made == list(range(10))
    assert tried == [8, 4, 2, 2, 2, 2, 2]
    assert said == ["out of memory: going on with 4 records a batch", "out of memory: going on with 2 records a batch"]


def test_what_is_kept_for_speed_goes_before_a_record_is_said_not_to_fit() -> None:
    kept, tried = [], []

    def work(batch: Sequence[int]) -> dict[int, tuple]:
        tried.append(tuple(batch))
        if len(kept) > 1:
            raise torch.OutOfMemoryError("no room")
        kept.append(batch)
        return {i: (i,) for i in batch}

    made = [i for batch, _ in in_batches(range(5), 1, work, log=pytest.fail, let_go=kept.clear) for i in batch]
    assert made == list(range(5))
    assert tried == [(0,), (1,), (2,), (2,), (3,), (4,), (4,)]


def test_one_record_that_does_not_fit_and_other_errors_are_told() -> None:
    def full(batch: Sequence[int]) -> dict[int, tuple]:
        raise NO_ROOM["cpu"]

    with pytest.raises(InputError, match="record 1 does not fit in memory even alone"):
        list(in_batches(range(2), 2, full, log=lambda text: None))

    def broken(batch: Sequence[int]) -> dict[int, tuple]:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(in_batches(range(2), 2, broken, log=lambda text: None))


def test_written_paraphrases_do_not_depend_on_the_batch() -> None:
    lm = load_model()
    bare = [
        Record(str(i), f"What is the capital of {name}?", ("x",)) for i, name in enumerate(("Peru", "Chile", "Mali"))
    ]
    together = rewrite(lm, [*bare, RECORDS[0]], 3, seed=5)
    assert together[3] == RECORDS[0]
    for i, record in enumerate(bare):
        assert rewrite(lm, [record], 3, seed=5) == [together[i]]
        texts = together[i].paraphrases
        assert len(texts) == 3 and len({*texts, record.question}) == 4
        assert all(record.question.split()[-1].rstrip("?") in text for text in texts)
    assert rewrite(lm, bare, 3, seed=6) != together[:3]


def run_twice(*arguments: str | Path) -> subprocess.Popen:
    """As docs/data.md starts two processes."""
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    command = [sys.executable, "-m", *launcher, "flexdemo", *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven records without paraphrases."""
    names = ("Peru", "Chile", "Mali", "Japan", "Cuba", "Iran", "Fiji")
    records = [Record(name, f"What is the capital of {name}?", ("Lima",)) for name in names]
    return write_data(tmp_path_factory.mktemp("data") / "data.jsonl", records)


@pytest.fixture(scope="module")
def uninterrupted(data: Path) -> list[dict[str, Any]]:
    output = data.with_name("whole.feather")
    assert cli.main(["evaluate", str(data), "--method", "all", "--output", str(output), *OPTIONS]) == 0
    return without_seconds(read_table(output))


OPTIONS = ("--paraphrases", "2", "--batch-size", "2", "--max-new-tokens", "8")


def test_table_has_every_method_of_every_record(uninterrupted: list[dict[str, Any]], data: Path) -> None:
    names = [record.id for record in read_records(str(data))[0]]
    assert list(dict.fromkeys(row["id"] for row in uninterrupted)) == names
    for name in names:
        rows = [row for row in uninterrupted if row["id"] == name]
        assert {row["method"] for row in rows} == set(METHODS)
        assert [row["view"] for row in rows if row["method"] == "per_prompt"] == ["P1", "P2", "P3"]
    assert [row["exact_match"] for row in uninterrupted if row["id"] == "Peru" and row["method"] == "flex"] == [True]
    kept = read_records(str(data.with_name("whole.feather.paraphrases.jsonl")))[0]
    assert [record.id for record in kept] == names and all(len(record.paraphrases) == 2 for record in kept)


@pytest.mark.skipif(sys.platform == "win32", reason="nothing forks here")
def test_killed_at_random_moments_and_resumed(data: Path, uninterrupted: list[dict[str, Any]], tmp_path: Path) -> None:
    """Killed hard, also while it paraphrases; what resumes must end with the same table."""
    output, made = tmp_path / "cut.feather", random.Random(3)
    arguments = ("evaluate", data, "--method", "all", "--output", output, *OPTIONS, "--resume")
    for _ in range(2):
        process = Forked(lambda: cli.main([*map(str, arguments)]), tmp_path)
        partials = [tmp_path / f"cut.feather{kind}.partial-0.jsonl" for kind in ("", ".paraphrases.jsonl")]
        before = sum(path.stat().st_size for path in partials if path.exists())
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            if sum(path.stat().st_size for path in partials if path.exists()) > before:
                time.sleep(made.random())
                break
            time.sleep(0.02)
        process.kill()
        process.communicate()
    assert cli.main([*map(str, arguments)]) == 0
    assert without_seconds(read_table(output)) == uninterrupted
    assert not list(tmp_path.glob("*.partial-*"))


@needs_gloo
def test_two_processes_equal_one(data: Path, uninterrupted: list[dict[str, Any]], tmp_path: Path) -> None:
    output, shared = tmp_path / "two.parquet", False
    process = run_twice("evaluate", data, "--method", "all", "--output", output, *OPTIONS)
    while process.poll() is None:
        shared |= (tmp_path / "two.parquet.partial-1.jsonl").exists()  # what the second one has done
        time.sleep(0.02)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.count("wrote") == 1 and shared
    assert without_seconds(read_table(output)) == uninterrupted
    assert not list(tmp_path.glob("*.partial-*"))


@pytest.mark.parametrize("together", [False, True])
def test_what_processes_dropped_is_told_whole(monkeypatch: pytest.MonkeyPatch, together: bool) -> None:
    """Those that work on each record together have all dropped the same."""
    monkeypatch.setattr("flexdemo.data.workers.gather_object", lambda own: [*own, Counter(late=2, lost=1)])
    workers, dropped = Workers(SimpleNamespace(), together), Counter(lost=3)
    assert workers.summed(dropped) == (dropped if together else Counter(lost=4, late=2))


def test_other_settings_and_other_data_are_not_mixed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.jsonl"
    asked = ["evaluate", str(data), "--paraphrases", "0", "--limit", "3", "--output", str(output)]
    assert cli.main(asked) == 0
    capsys.readouterr()
    assert cli.main([*asked, "--resume"]) == 0  # nothing left to do, and told again
    assert "| flex | 3 |" in capsys.readouterr().out
    before = output.read_bytes()
    for extra, message in (
        ([], "exists: --resume goes on, --overwrite starts again"),
        (["--resume", "--max-new-tokens", "7"], "its max_new_tokens is 32, not 7"),
        (["--resume", "--method", "causal"], "its methods is"),
        (["--resume", "--limit", "2"], "its data is"),
    ):
        assert cli.main([*asked, *extra]) == 2
        error = capsys.readouterr().err
        assert message in error and error.strip().count("\n") == 0, error
        assert output.read_bytes() == before
    assert cli.main([*asked, "--overwrite", "--max-new-tokens", "7"]) == 0


def test_a_folder_that_holds_another_model_is_not_resumed(
    data: Path, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    asked = ["evaluate", str(data), "--paraphrases", "0", "--limit", "1", "--model", str(folder)]
    asked += ["--max-new-tokens", "2", "--output", str(tmp_path / "out.jsonl")]
    assert cli.main(asked) == 0 and cli.main([*asked, "--resume"]) == 0
    model = models.random_model("llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[0, 0] += 1
    model.save_pretrained(folder)
    capsys.readouterr()
    assert cli.main([*asked, "--resume"]) == 2
    assert "its model_weights is" in capsys.readouterr().err


def test_what_is_wrong_is_said_before_the_model_loads(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("flexdemo.engine.loading.load_model", never)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "What?", "answers": ["x"]}\n{"question": "", "answers": ["x"]}\n{"question"\n')
    good = str(data)
    for arguments, message in (
        ([str(bad)], "line 2"),
        ([str(tmp_path / "none.jsonl")], "none.jsonl"),
        ([good, "--output", str(bad / "x.feather")], "no permission"),
        ([good, "--output", str(tmp_path / "x.txt")], "must end in"),
        ([good, "--report", str(tmp_path / "x.pdf")], "must end in .md, .html"),
        ([good, "--method", "magic"], "unknown method"),
        ([good, "--mask", "magic"], "unknown mask strategy"),
        ([good, "--batch-size", "0"], "batch size"),
        ([good, "--paraphrases", "-1"], "number of paraphrases must be between 0 and 100"),
        ([good, "--sweep", "paraphrases", "--method", "per_prompt"], "methods that give one answer: add one, such as"),
        ([good, "--shots", "2"], "--shots K, 1 or more, and --shots-from FILE"),
        ([good, "--shots", "-1", "--shots-from", good], "--shots K, 1 or more, and --shots-from FILE"),
        ([good, "--shots-from", good], "go together"),
        ([good, "--resume"], "--resume goes on with an --output"),
        ([good, "--max-new-tokens", "0"], "max_new_tokens must be at least 1"),
        ([good, "--ape-scale", "0"], "ape_scale"),
        ([good, "--seed", "-1"], "seed must be from 0"),
        ([good, "--temperature", "0"], "the temperature must be above 0"),
        ([good, "--temperature", "nan"], "the temperature must be above 0"),
        ([good, "--output", good, "--overwrite"], "is the data that is read: write to another file"),
    ):
        assert cli.main(["evaluate", *arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert message in error and error.strip().count("\n") == 0, error


def test_no_command_writes_over_the_data_that_it_reads(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = data.read_bytes()
    link = tmp_path / "link.jsonl"
    link.symlink_to(data)
    other = write_data(tmp_path / "other.jsonl")
    for arguments in (
        ["evaluate", str(data), "--output", str(link), "--overwrite"],
        ["evaluate", str(other), "--output", str(data), "--overwrite", "--shots", "1", "--shots-from", str(data)],
    ):
        assert cli.main(arguments) == 2, arguments
        assert "is the data that is read: write to another file" in capsys.readouterr().err
        assert data.read_bytes() == before and not list(tmp_path.glob("*.partial*"))


def test_raw_weights_go_before_those_of_a_record(lm: LanguageModel) -> None:
    weighted = RECORDS[2]
    (plain,), *_ = prepare_questions(lm, [weighted], Settings())
    (raw,), *_ = prepare_questions(lm, [weighted], Settings(weights="raw"))
    assert plain is not None and plain.prompt.weights == (0.25, 0.0, 0.5, 0.25)
    assert raw is not None and raw.prompt.weights == (1.0, 1.0, 1.0, 1.0)


def test_fewer_paraphrases_leave_a_record_that_only_they_had_weight_in() -> None:
    record = Record("1", "q", ("a",), ("p", "r"), (0.0, 0.0, 1.0))
    assert [shorten(record, n).weights for n in range(3)] == [None, None, (0.0, 0.0, 1.0)]
    assert shorten(RECORDS[2], 2).weights == RECORDS[2].weights[:3]


def test_bad_records_are_named_counted_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    bad = tmp_path / "bad.jsonl"
    lines = [json.dumps({"question": "Who wrote Hamlet?", "answers": ["William Shakespeare"]})] * 3
    lines[1] = '{"question": "What?", "answers": "x"}'
    bad.write_text("\n".join(lines))
    shots = tmp_path / "shots.jsonl"
    shots.write_text('{"question": "Where?", "answers": ["Peru"]}\n{"question": "?"}')
    options = ["--paraphrases", "0", "--skip-bad", "--shots", "1", "--shots-from", str(shots), "--json"]
    assert cli.main(["evaluate", str(bad), *options]) == 0
    told = capsys.readouterr()
    assert "skipped line 2" in told.err and "skipped 1 bad records, 2 are left" in told.err
    assert f"skipped 1 bad records, 1 are left of {shots}" in told.err
    assert json.loads(told.out)["questions"] == 2


def test_records_that_the_model_cannot_be_asked_are_named_and_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    records = [
        replace(RECORDS[1], paraphrases=()),
        Record("long", "why? " * 3000, ("x",)),
        Record("c", "\ufdd1?", ("x",)),
    ]
    given = ["evaluate", str(write_data(tmp_path / "data.jsonl", records)), "--paraphrases", "0", "--json"]
    assert cli.main(given) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: record 'long': prompt and answer need ") and said.count("\n") == 1
    assert said.endswith(" (and 1 more); --skip-bad leaves such records out\n")
    assert cli.main([*given, "--skip-bad"]) == 0
    told = capsys.readouterr()
    assert "skipped record 'long': " in told.err and "skipped record 'c': the question contains a code" in told.err
    assert json.loads(told.out)["questions"] == 1
    output = tmp_path / "none.feather"
    given += ["--skip-bad", "--mask", "segment+P9>P1", "--output", str(output)]
    assert cli.main(given) == 2, "none is left"
    said = capsys.readouterr().err
    assert said.startswith("error: record 'b': ") and said.endswith(" (and 2 more)\n") and said.count("\n") == 1
    assert not list(tmp_path.glob("none.feather*"))


def test_shots_are_told_and_never_a_question_that_is_asked(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shots = write_data(tmp_path / "shots.jsonl", [*read_records(str(data))[0], RECORDS[1]])
    asked = ["evaluate", str(data), "--paraphrases", "0", "--limit", "7", "--shots-from", str(shots), "--json"]
    assert cli.main([*asked, "--shots", "1"]) == 0
    told = json.loads(capsys.readouterr().out)["settings"]
    assert told["prefix"] == "" and told["shots"] == [["Who wrote Hamlet?", "Shakespeare"]]
    assert told["prompt"] == {"prefix": "Q: Who wrote Hamlet?\nA: Shakespeare\n", "suffix": "A:"}
    assert cli.main([*asked, "--shots", "2"]) == 2
    assert "cannot draw 2 shots" in capsys.readouterr().err


def test_reasoning_has_room_that_the_table_tells(thinker: LanguageModel) -> None:
    for settings, most in (
        (Settings(methods=("origin",)), 512),
        (Settings(methods=("origin",), max_new_tokens=32), 32),
    ):
        asked, problems, settings = prepare_questions(thinker, [RECORDS[0]], settings)
        length = len(asked[0].prompt.token_ids)
        room = min(most, thinker.context_length - length)
        assert settings_dict(settings, thinker)["max_new_tokens"] == room and not problems
        ((row,),) = answer(thinker, asked, settings)
        assert row.tokens == room and row.prediction == ""


def test_shots_are_never_a_paraphrase_that_the_run_itself_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a run over the file that it keeps them in has the same shots."""

    def written(lm: Any, records: list[Record], *args: Any, **options: Any) -> list[Record]:
        return [replace(record, paraphrases=("Who wrote  hamlet",)) for record in records]

    monkeypatch.setattr("flexdemo.data.evaluate.rewrite", written)
    data = write_data(tmp_path / "data.jsonl", [Record("peru", "Capital of Peru?", ("Lima",))])
    pool = [RECORDS[1], *(Record(str(i), f"Who is {i}?", ("Bob",)) for i in range(4))]
    shots, output = write_data(tmp_path / "shots.jsonl", pool), tmp_path / "out.jsonl"
    told = []
    for seed in range(4):
        for asked in (data, Path(f"{output}.paraphrases.jsonl")):
            options = ["--shots", "3", "--shots-from", str(shots), "--seed", str(seed), "--max-new-tokens", "1"]
            kept = ["--output", str(output if asked is data else tmp_path / "again.jsonl"), "--overwrite", "--json"]
            assert cli.main(["evaluate", str(asked), *options, *kept]) == 0
            told.append(json.loads(capsys.readouterr().out)["settings"]["shots"])
    assert told[::2] == told[1::2] and all(len(each) == 3 for each in told)
    assert RECORDS[1].question not in [question for each in told for question, _ in each]


def test_shots_are_turns_of_a_chat(prepared: Any) -> None:
    settings = Settings(methods=("origin",), prefix="Be brief.", shots=(("1+1?", "2"),))
    lm = prepared("llama", "sdpa", chat=True)
    asked, *_ = prepare_questions(lm, RECORDS[:1], settings)
    before = "<s><|user|>Be brief.<|end|><|user|>1+1?<|end|><|user|>2<|end|><|user|>"
    assert asked[0].prompt.segments[0].text == before
    told = settings_dict(settings, lm)["prompt"]
    assert told == {"prefix": before, "suffix": "<|end|><|assistant|>"}


def test_a_dated_prompt_is_not_resumed_on_another_day(tmp_path: Path) -> None:
    """Not "auto" but the prompt as rendered is what two parts of a table must share."""
    tokenizer, output = families.FAMILIES["gpt2"](), tmp_path / "out.jsonl"
    lm = SimpleNamespace(tokenizer=tokenizer, name="m", dtype="float32", backend="sdpa", digest="")

    def settings(day: str) -> dict[str, Any]:
        long = "A line of an instruction that is long enough to hide what follows it. " * 3
        tokenizer.chat_template = f"{long}Today is {{{{ '{day}' }}}}.\n{families.MARKED}"
        return settings_dict(Settings(), lm)

    Journal.open(output, settings("Friday")).close()
    assert not Journal.open(output, settings("Friday"), resume=True).done
    with pytest.raises(InputError, match=r"its prompt is .*Today is Friday.*, not .*Today is Saturday"):
        Journal.open(output, settings("Saturday"), resume=True)


def test_records_whose_suffixes_differ_are_answered_all_the_same() -> None:
    """A tokenizer that merges the end of a question with what follows leaves some suffixes shorter."""
    tokenizer = families.family("vicuna")
    lm = prepare(models.random_model("llama", vocab_size=len(tokenizer)), tokenizer, name="vicuna", backend="sdpa")
    questions = ("Who wrote Hamlet?", "Who wrote Hamlet", "Name it!", "Name it")
    records = [Record(str(i), question, ("x",)) for i, question in enumerate(questions)]
    settings = Settings(methods=("origin",), max_new_tokens=4)
    asked, *_ = prepare_questions(lm, records, settings)
    assert len({len(each.prompt.segments[-1]) for each in asked}) > 1
    together = answer(lm, asked, settings)
    alone = [answer(lm, [each], settings)[0] for each in asked]
    assert [[row.generation for row in rows] for rows in together] == [[r.generation for r in rows] for rows in alone]


def test_the_home_folder_has_a_short_name_in_every_path(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    shutil.copy(data, home / "data.jsonl")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    asked = ["evaluate", "~/data.jsonl", "--paraphrases", "0", "--limit", "1", "--max-new-tokens", "1"]
    assert cli.main([*asked, "--output=~/new/out.csv", "--report=~/r.md"]) == 0
    assert cli.main(["mask", "What?", "--output=~/mask.png"]) == 0
    assert (home / "new" / "out.csv").is_file() and (home / "r.md").is_file() and (home / "mask.png").is_file()
    assert not list(here.iterdir()), "nor a folder called ~"


def test_reports_hold_the_summary(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    reports = [tmp_path / "r.md", tmp_path / "r.html"]
    asked = ["evaluate", str(data), "--paraphrases", "0", "--limit", "2", "--report", str(reports[0])]
    assert cli.main([*asked, "--report", str(reports[1])]) == 0
    printed = capsys.readouterr().out
    markdown, page = (path.read_text(encoding="utf-8") for path in reports)
    line = next(line for line in printed.splitlines() if line.startswith("| flex"))
    assert line in markdown and '- model: "tinyqa"' in markdown
    assert "<h1><bdi>flexdemo on data.jsonl</bdi></h1>" in page and "<script src" not in page


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_report_that_cannot_be_written_takes_no_result_with_it(
    form: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    asked = ["evaluate", str(data), "--paraphrases", "0", "--limit", "1", *form]
    assert cli.main([*asked, "--report", str(tmp_path / f"{'n' * 250}.md")]) == 2
    out, err = capsys.readouterr()
    assert ("causal" in out and "wrote" not in out) and (err.startswith("error: cannot write") and err.count("\n") == 1)


def test_a_report_on_a_file_whose_name_is_no_unicode(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    named = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    try:
        shutil.copy(data, named)
    except OSError:
        pytest.skip("this disk takes names of Unicode only")
    for ending in (".md", ".html"):
        report = tmp_path / f"r{ending}"
        asked = ["evaluate", str(named), "--paraphrases", "0", "--limit", "1", "--report", str(report)]
        assert cli.main(asked) == 0
        assert "flexdemo on caf\ufffd.jsonl" in report.read_text(encoding="utf-8")


def test_all_leaves_out_what_a_single_wording_does_not_allow(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    single = write_data(tmp_path / "single.jsonl", [Record("x", "Who wrote Hamlet?", ("x",)), RECORDS[0]])
    assert cli.main(["evaluate", str(single), "--paraphrases", "0", "--method", "all", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "leave_one_out" not in told["settings"]["methods"] and "flex" in told["settings"]["methods"]
    assert cli.main(["evaluate", str(single), "--paraphrases", "0", "--method", "leave_one_out"]) == 2
    assert "leave_one_out needs at least 2 wordings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("chat", "options", "score"),
    [
        (True, (), "contains"),
        (True, ("--template", "plain"), "exact"),
        (True, ("--score", "f1"), "f1"),
        (False, (), "exact"),
        (False, ("--score", "lemma"), "lemma"),
    ],
)
def test_the_score_fits_how_the_model_is_asked(
    chat: bool, options: Sequence[str], score: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    models.random_model("llama").save_pretrained(tmp_path / "model")
    models.tokenizer(chat=chat).save_pretrained(tmp_path / "model")
    data = write_data(tmp_path / "data.jsonl", RECORDS[:1])
    asked = ["evaluate", str(data), "--model", str(tmp_path / "model"), "--max-new-tokens", "2", *options]
    assert cli.main(asked) == 0
    printed = capsys.readouterr().out
    assert f"| Accuracy ({score}) |" in printed and f"the score {score} of an answer" in printed


def test_lemmas_without_a_lemmatiser_are_told_before_the_model_loads(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("flexdemo.cli.evaluate.find_lemmatiser", lambda: None)
    monkeypatch.setattr("flexdemo.engine.loading.load_model", lambda *given, **options: pytest.fail("it loaded"))
    assert cli.main(["evaluate", str(data), "--score", "lemma"]) == 2
    assert capsys.readouterr().err == "error: --score lemma needs a lemmatiser: pip install simplemma\n"
