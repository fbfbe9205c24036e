"""The command line's contract: its JSON, its errors, its independence of the working directory."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import models
import pytest

from flexdemo.answers.methods import METHODS
from flexdemo.answers.recording import load_recorded
from flexdemo.cli import main as cli
from flexdemo.engine.model import LanguageModel
from flexdemo.masks import STRATEGIES
from flexdemo.prompt import POSITIONS

ROOT = Path(__file__).resolve().parents[2]
QUESTION = "What is the capital of Peru?"
PARAPHRASES = ["Which city is Peru's capital?", "Name the capital city of Peru."]
ASK = [QUESTION, "-p", PARAPHRASES[0], "-p", PARAPHRASES[1]]


def run(capsys: pytest.CaptureFixture, *args: str) -> tuple[int, str, str]:
    try:
        status = cli.main(list(args))
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def loaded(capsys: pytest.CaptureFixture, *args: str) -> dict:
    status, out, _ = run(capsys, *args, "--json")
    assert status == 0
    assert out.count("\n") == 1
    return json.loads(out)


def test_bundled_model_answers_from_any_directory_offline(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    command = [sys.executable, "-m", "flexdemo", "generate", *ASK, "--method", "all", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    answers = {result["method"]: result["answer"] for result in json.loads(done.stdout)["results"]}
    assert answers == dict.fromkeys(METHODS, "Lima")
    assert done.stderr == ""  # no warning of any library
    assert not list(tmp_path.glob("*.json"))


def test_generate_json_has_every_field_of_the_contract(capsys: pytest.CaptureFixture) -> None:
    out = loaded(capsys, "generate", *ASK, "--method", "all", "--weights", "1,2,1")
    assert set(out) == {"model", "device", "dtype", "backend", "mask", "prompt", "results", "seconds"}
    assert set(out["mask"]) == {"strategy", "positions", "density"}
    prompt = out["prompt"]
    assert set(prompt) == {"token_ids", "tokens", "segment_ids", "position_ids", "segments"}
    assert len({len(prompt[key]) for key in ("token_ids", "tokens", "segment_ids", "position_ids")}) == 1
    assert [s["name"] for s in prompt["segments"]] == ["prefix", "P1", "P2", "P3", "suffix"]
    assert [s["weight"] for s in prompt["segments"]] == [None, 0.25, 0.5, 0.25, None]
    assert set(out["seconds"]) == {"load", "encode", "first_token", "decode", "total"}
    assert [result["method"] for result in out["results"]] == list(METHODS)
    for result in out["results"]:
        assert {"method", "answer", "generation", "token_ids", "tokens", "logprobs", "views"} <= set(result)
        assert len(result["token_ids"]) == len(result["tokens"]) == len(result["logprobs"]) > 0
        assert max(result["logprobs"]) <= 0
        for view in result["views"]:
            assert {"name", "weights", "suffix_position", "answer", "token_ids", "segment_mass"} <= set(view)
            assert len(view["segment_mass"]) == len(view["token_ids"])
            for row in view["segment_mass"]:
                assert len(row) == 5
                assert sum(row) == pytest.approx(1, abs=1e-5)


def test_density_counts_the_cells_that_mask_prints(capsys: pytest.CaptureFixture) -> None:
    for strategy in STRATEGIES:
        rows = loaded(capsys, "mask", *ASK, "--mask", strategy)["rows"]
        said = loaded(capsys, "generate", *ASK, "--mask", strategy, "--max-new-tokens", "1")["mask"]["density"]
        assert sum(row.count("1") for row in rows) / len(rows) ** 2 == pytest.approx(said, abs=1e-12)


@pytest.mark.parametrize("positions", POSITIONS)
def test_mask_takes_every_position_scheme(capsys: pytest.CaptureFixture, positions: str) -> None:
    out = loaded(capsys, "mask", *ASK, "--positions", positions, "--against", "causal")
    n = len(out["rows"])
    assert out["positions"] == positions
    assert all(len(row) == n and set(row) <= {"0", "1"} for row in out["rows"])
    against = out["against"]
    assert against["kept"] + against["removed"] == n * (n + 1) // 2
    assert against["added"] == 0


@pytest.mark.parametrize("ending", [".html", ".png", ".csv"])
def test_mask_writes_files(capsys: pytest.CaptureFixture, tmp_path: Path, ending: str) -> None:
    target = tmp_path / f"mask{ending}"
    status, _, _ = run(capsys, "mask", *ASK, "--output", str(target))
    assert status == 0
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    data = target.read_bytes()
    if ending == ".png":
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
    elif ending == ".csv":
        rows = ["".join(row) for row in csv.reader(data.decode().splitlines())]
        assert rows == loaded(capsys, "mask", *ASK)["rows"]
    else:
        assert b"sendDataToCloud" not in data.split(b"<script>")[-1]
        assert b"plotly" in data.lower()


def test_two_masks_are_one_figure(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    path = tmp_path / "mask.html"
    assert run(capsys, "mask", *ASK, "--against", "causal", "--output", str(path))[0] == 0
    text = path.read_text(encoding="utf-8")
    assert "causal" in text and "plotly" in text


def test_reasoning_has_room_where_no_length_was_given(
    thinker: LanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    thinker.tokenizer.save_pretrained(tmp_path)
    model = models.random_model("llama", vocab_size=len(thinker.tokenizer), max_position_embeddings=100)
    model.save_pretrained(tmp_path)
    (tmp_path / "data.jsonl").write_text('{"question": "Name it.", "answers": ["Lima"], "paraphrases": ["Tell it."]}')
    for given, room in (((), 100), (("--max-new-tokens", "32"), 0)):
        told = loaded(capsys, "generate", "Name it.", "--model", str(tmp_path), *given)
        left = room - len(told["prompt"]["token_ids"]) if room else 32
        assert len(told["results"][0]["token_ids"]) == left > 31
        assert any("may have" in note for note in told["notes"]) == bool(room)
        data = ("evaluate", str(tmp_path / "data.jsonl"), "--method", "origin", "--model", str(tmp_path))
        assert (loaded(capsys, *data, *given)["settings"]["max_new_tokens"] > 32) == bool(room)


def test_weights_by_confidence_are_told(capsys: pytest.CaptureFixture) -> None:
    given = ["generate", *ASK, "--weights", "confidence", "--samples", "2", "--method", "per_prompt"]
    status, out, _ = run(capsys, *given)
    assert status == 0 and [line.partition(":")[0] for line in out.splitlines()[:3]] == [
        "per_prompt P1", "per_prompt P2", "per_prompt P3",
    ]  # fmt: skip
    assert re.search(r"^confidence, share of 2 samples that agree: P1 \d\.\d\d, P2 \d\.\d\d, P3 \d\.\d\d$", out, re.M)


def test_bench_times_a_backend_beside_generate(capsys: pytest.CaptureFixture) -> None:
    given = ["--lengths", "20,40", "--max-new-tokens", "2", "--runs", "1", "--backend", "sdpa", "--device", "cpu"]
    status, out, err = run(capsys, "bench", *given, "--json")
    told = json.loads(out)
    assert (status, told["shape"], told["prompts_where_backends_differ"]) == (0, "tiny", 0)
    ways = [(each["way"], each["prompt_tokens"]) for each in told["timings"]]
    assert ways == [(way, length) for length in (20, 40) for way in ("sdpa", "transformers generate")]
    assert all(each["first_token_seconds"] > 0 for each in told["timings"])
    assert err.count("\n") == len(ways)


def test_paraphrases_are_distinct_and_none_is_the_question(capsys: pytest.CaptureFixture) -> None:
    texts = loaded(capsys, "paraphrase", QUESTION, "-n", "5")
    forms = {text.casefold().strip(" ?.!") for text in texts}
    assert len(forms) == len(texts) == 5
    assert QUESTION.casefold().strip(" ?.!") not in forms
    assert all("peru" in text.casefold() for text in texts)
    assert texts == loaded(capsys, "paraphrase", QUESTION, "-n", "5")
    assert texts != loaded(capsys, "paraphrase", QUESTION, "-n", "5", "--seed", "1")


BAD = {
    "no question": (["generate"], "QUESTION"),
    "empty question": (["generate", "  "], "empty"),
    "empty paraphrase": (["generate", "x", "-p", ""], "paraphrase 1"),
    "unknown command": (["dance"], "generate"),
    "unknown method": (["generate", "x", "--method", "psychic"], "flex"),
    "unknown mask": (["generate", "x", "--mask", "iron"], "segment"),
    "unknown positions": (["mask", "x", "--positions", "up"], "aligned"),
    "unknown backend": (["generate", "x", "--backend", "cuda"], "flex-eager"),
    "unknown device": (["generate", "x", "--device", "tpu"], "cpu"),
    "unknown dtype": (["generate", "x", "--dtype", "int8"], "float32"),
    "too few weights": (["generate", "x", "-p", "y", "--weights", "1"], "one weight"),
    "weights no numbers": (["generate", "x", "--weights", "a,b"], "a list of numbers"),
    "weights negative": (["generate", "x", "--weights=-1"], "0 or more"),
    "weights zero": (["generate", "x", "--weights", "0"], "above 0"),
    "no tokens": (["generate", "x", "--max-new-tokens", "0"], "at least 1"),
    "too long": (["generate", "x", "--max-new-tokens", "100000"], "holds"),
    "model folder missing": (["generate", "x", "--model", "/does/not/exist"], "config.json"),
    "unknown against": (["mask", "x", "--against", "iron"], "segment"),
    "output ending": (["mask", "x", "--output", "mask.gif"], ".png"),
    "output below a file": (["mask", "x", "--output", "/dev/null/mask.png"], "no permission"),
    "two outputs": (["mask", "x", "--json", "--output", "mask.png"], "not allowed"),
    "no paraphrases": (["paraphrase", "x", "-n", "0"], "between 1 and 100"),
    "paraphrases of a negative seed": (["paraphrase", "x", "--seed", "-1"], "seed must be from 0"),
    "paraphrases of a huge seed": (["paraphrase", "x", "--seed", "99999999999999999999"], "seed must be from 0"),
    "a chat without a template": (["generate", "x", "--template", "chat"], "use template plain"),
    "a chat's mask without a template": (["mask", "x", "--template", "chat"], "use template plain"),
    "attention out of range": (
        ["generate", "x", "-p", "y", "--json", "--ape-temperature", "1e300"],
        "from 0.01 to 100",
    ),
    "unknown shape": (["bench", "--shape", "round"], "tiny"),
    "short lengths": (["bench", "--lengths", "1"], "at least 20"),
    "lengths that are none": (["bench", "--lengths", "a"], "whole numbers such as 128,512"),
    "no runs": (["bench", "--runs", "0"], "at least 1 run, 2 new tokens"),
    "unknown backend of bench": (["bench", "--backend", "fast"], "choose from all, flex, flex-eager, sdpa"),
}


def test_an_output_that_is_closed_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert run(capsys, "generate", "x") == (2, "", "error: standard output is closed\n")


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_two(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    args, hint = BAD[case]
    status, out, err = run(capsys, *args)
    assert (status, out) == (2, "")
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1, err
    assert hint in lines[0]
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_help_reads_well(capsys: pytest.CaptureFixture) -> None:
    status, out, _ = run(capsys, "--help")
    assert status == 0
    assert all(command in out for command in ("generate", "mask", "paraphrase", "bench"))


def test_help_names_every_choice_of_the_tables(capsys: pytest.CaptureFixture) -> None:
    _, out, _ = run(capsys, "generate", "--help")
    assert all(name in out for name in (*METHODS, *POSITIONS, *STRATEGIES))


def test_record_writes_what_the_page_shows(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    examples, path = tmp_path / "examples.json", tmp_path / "recorded.json"
    examples.write_text(json.dumps([{"question": QUESTION, "paraphrases": PARAPHRASES, "note": "n"}]), encoding="utf-8")
    given = ["record", "--examples", str(examples), "--output", str(path)]
    status, out, _ = run(capsys, *given)
    assert status == 0 and f"wrote {path}: 1 examples" in out
    (recorded,) = load_recorded(path)
    assert recorded.result.request.question == QUESTION
    assert {each.method: each.answer for each in recorded.result.results} == dict.fromkeys(METHODS, "Lima")


@pytest.mark.parametrize(
    ("content", "more", "said"),
    [
        ("[]", [], "it must be a list of examples"),
        ("{", [], "it is no JSON"),
        (None, [], "No such file"),
        ('[{"question": "q"}]', ["--output", "x.txt"], "must end in .json"),
        ('[{"question": "q", "paraphrases": "one"}]', [], "paraphrases must be a list of texts"),
        ('[{"question": "q", "paraphrases": null}]', [], "paraphrases must be a list of texts"),
        ('[{"question": "q", "max_new_tokens": "5"}]', [], "max_new_tokens must be a whole number"),
        ('[{"question": "q", "weights": ["1"]}]', [], "weights must be a list of numbers"),
        ('[{"question": "q", "mask": ["causal"]}]', [], "mask must be a text"),
        ('[{"text": "q"}]', [], "example 1 must be an object with a question"),
    ],
)
def test_record_says_what_is_wrong_and_writes_nothing(
    capsys: pytest.CaptureFixture, tmp_path: Path, content: str | None, more: list[str], said: str
) -> None:
    examples, path = tmp_path / "examples.json", tmp_path / "recorded.json"
    if content is not None:
        examples.write_text(content, encoding="utf-8")
    status, out, err = run(capsys, "record", "--examples", str(examples), "--output", str(path), *more)
    assert status == 2 and out == "" and err.count("\n") == 1 and said in err
    assert not path.exists()


def test_record_does_not_write_over_its_examples(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    path = tmp_path / "examples.json"
    path.write_text('[{"question": "q"}]', encoding="utf-8")
    status, _, err = run(capsys, "record", "--examples", str(path), "--output", str(path))
    assert status == 2 and "is the data that is read: write to another file" in err
    assert path.read_text(encoding="utf-8") == '[{"question": "q"}]'


def test_a_reader_that_leaves_is_no_error(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert cli.main(["mask", QUESTION, "--json"]) == 141
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full: a disk that is full cannot be had")
def test_output_on_a_full_disk_is_told_in_one_line(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert cli.main(["mask", "x", "--json"]) == 2
    assert capsys.readouterr().err == "error: the output cannot be written: No space left on device\n"


def test_fewer_paraphrases_than_asked_for_are_told(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexdemo.answers.paraphrase.paraphrase", lambda *given, **options: ["Name it."])
    status, out, err = run(capsys, "paraphrase", QUESTION, "-n", "3")
    assert (status, out) == (0, "Name it.\n")
    assert err.startswith("1 of 3 paraphrases: ")


@pytest.mark.parametrize("form", [["--json"], []])
def test_output_that_holds_only_ascii_still_gets_json_and_text(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, form: list[str]
) -> None:
    """As Python opens it under PYTHONIOENCODING=ascii."""
    accented, output = "é", io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", output)
    assert cli.main(["mask", accented, *form]) == 0
    out = output.buffer.getvalue()
    assert capsys.readouterr().err == "" and out.isascii()
    if form:
        assert accented in "".join(json.loads(out)["tokens"])


def test_no_bar_moves_where_nobody_waits_at_a_terminal(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    """A log of a night's run would hold a line for each of its steps."""
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"question": QUESTION, "answers": ["Lima"], "paraphrases": PARAPHRASES}))
    status, out, err = run(capsys, "evaluate", str(data), "--json")
    assert (status, err) == (0, "") and json.loads(out)


def test_an_interrupt_is_one_word(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*given: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flexdemo.engine.loading.load_model", stop)
    assert run(capsys, "generate", "x") == (130, "", "interrupted\n")
