"""Data sets: every form of a file gives the same records, and a bad record is named by its line."""

from __future__ import annotations

import codecs
import json
import random
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pandas as pd
import pyarrow
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from flexdemo.answers.metrics import normalise
from flexdemo.data.records import (
    Record,
    build_records,
    cloze_rows,
    draw_shots,
    fingerprint,
    read_records,
    table_rows,
)
from flexdemo.errors import InputError

GOOD: list[dict[str, Any]] = [
    {"id": "a", "question": "Capital of Peru?", "answers": ["Lima"]},
    {"id": 7, "question": ' "Quoted", with\nline ends ', "answers": ["x", "東京 \u2028 é"], "paraphrases": ["p", "=q"]},
    {"question": "Weighted?", "answers": ["1"], "paraphrases": ["w"], "weights": [1, 0.5], "extra": {"left": "alone"}},
]
EXPECTED = [
    Record("a", "Capital of Peru?", ("Lima",)),
    Record("7", '"Quoted", with\nline ends', ("x", "東京 \u2028 é"), ("p", "=q")),
    Record("3", "Weighted?", ("1",), ("w",), (1.0, 0.5)),
]


def jsonl(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def csv_text(rows: list[dict[str, Any]], separator: str = ",") -> str:
    frame = pd.DataFrame([{k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows])
    return frame.to_csv(index=False, sep=separator)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    frame = pd.DataFrame([{k: str(v) if k == "id" else v for k, v in row.items()} for row in rows])
    {
        ".jsonl": lambda: path.write_text(jsonl(rows), encoding="utf-8"),
        ".json": lambda: path.write_text(json.dumps(rows), encoding="utf-8"),
        ".csv": lambda: path.write_text(csv_text(rows), encoding="utf-8", newline=""),
        ".parquet": lambda: frame.to_parquet(path),
        ".feather": lambda: frame.to_feather(path),
    }[path.suffix]()


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".parquet", ".feather"])
def test_every_form_of_a_file_gives_the_same_records(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"data{ending}"
    write(path, GOOD)
    records, problems = read_records(str(path))
    assert problems == []
    assert [record.id for record in records] == ["a", "7", "3"]
    assert [(r.question, r.answers, r.paraphrases, r.weights) for r in records] == [
        (r.question, r.answers, r.paraphrases, r.weights) for r in EXPECTED
    ]


def test_json_may_be_an_object_around_one_list_and_start_with_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(codecs.BOM_UTF8 + json.dumps({"version": 1, "data": GOOD}).encode())
    assert read_records(str(path))[0] == EXPECTED
    for bad in ({"a": [], "b": []}, GOOD[0], "text"):
        path.write_text(json.dumps(bad))
        with pytest.raises(InputError, match="list of objects"):
            read_records(str(path))


def test_windows_line_ends_and_blank_lines_and_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + b"\r\n".join([json.dumps(GOOD[0]).encode(), b"", json.dumps(GOOD[2]).encode()]))
    assert [record.id for record in read_records(str(path))[0]] == ["a", "3"]
    path = tmp_path / "data.csv"
    path.write_bytes(codecs.BOM_UTF8 + csv_text(GOOD[:1]).replace("\n", "\r\n").encode())
    assert read_records(str(path))[0] == EXPECTED[:1]
    for separator in ";\t":  # where commas are decimal, a spreadsheet separates cells by these
        path.write_text(csv_text(GOOD, separator), encoding="utf-8", newline="")
        assert read_records(str(path))[0] == EXPECTED
    path.write_bytes(csv_text(GOOD[:1]).replace("\n", "\r").encode())  # "CSV (Macintosh)"
    assert read_records(str(path))[0] == EXPECTED[:1]


def test_limit_stops_reading(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(jsonl(GOOD[:2]) + "broken\n", encoding="utf-8")
    assert read_records(str(path), limit=2) == (EXPECTED[:2], [])
    with pytest.raises(InputError, match="line 3"):
        read_records(str(path), limit=3)
    with pytest.raises(InputError, match="at least 1"):
        read_records(str(path), limit=0)


OK = {"question": "q", "answers": ["a"]}
BAD: dict[str, tuple[Any, str]] = {
    "no question": ({"answers": ["a"]}, "the column 'question' is missing"),
    "null question": ({"question": None, "answers": ["a"]}, "the column 'question' is missing"),
    "blank question": ({"question": " \n", "answers": ["a"]}, "question: String should have at least 1 character"),
    "number as question": ({"question": 5, "answers": ["a"]}, "question: Input should be a valid string, not 5"),
    "no answers": ({"question": "q"}, "the column 'answers' is missing"),
    "text as answers": ({"question": "q", "answers": "Lima"}, "answers: Input should be a valid list, not 'Lima'"),
    "empty answers": ({"question": "q", "answers": []}, "answers: List should have at least 1 item, not []"),
    "number as answer": ({"question": "q", "answers": ["a", 5]}, "answers 2: Input should be a valid string, not 5"),
    "blank answer": ({"question": "q", "answers": [""]}, "answers 1: String should have at least 1 character"),
    "text as paraphrases": ({**OK, "paraphrases": "p"}, "paraphrases: Input should be a valid list"),
    "blank paraphrase": ({**OK, "paraphrases": ["p", " "]}, "paraphrases 2: String should have at least 1 character"),
    "half a character": ({"question": "q \ud83d", "answers": ["a"]}, "a valid string, unable to parse"),
    "half a character in an answer": (
        {"question": "q", "answers": ["\udc00"]},
        "a valid string, unable to parse",
    ),
    "half a character in an id": ({**OK, "id": "\ud83d"}, "a valid string, unable to parse"),
    "too few weights": ({**OK, "paraphrases": ["p"], "weights": [1]}, "one weight for"),
    "text as weights": ({**OK, "weights": "1"}, "weights: Input should be a valid list"),
    "text in weights": ({**OK, "weights": ["1"]}, "weights 1: Input should be a valid number"),
    "negative weights": ({**OK, "weights": [-1]}, "0 or more"),
    "zero weights": ({**OK, "weights": [0]}, "above 0"),
    "infinite weights": ({**OK, "weights": [float("inf")]}, "finite"),
    "no number as weights": ({**OK, "weights": [float("nan")]}, "finite"),
    "huge weights": ({**OK, "weights": [10**400]}, "a valid number"),
    "truth as weights": ({**OK, "weights": [True]}, "a valid number, not True"),
    "list as id": ({**OK, "id": [1]}, "id: Input should be a valid string"),
    "truth as id": ({**OK, "id": True}, "id: Input should be a valid string"),
    "blank id": ({**OK, "id": " "}, "id: String should have at least 1 character"),
    "no object": ([1, 2], "must be an object"),
    "null": (None, "must be an object"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_record_is_named_by_line_and_can_be_left_out(tmp_path: Path, case: str) -> None:
    bad, reason = BAD[case]
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(GOOD[0]) + "\n" + json.dumps(bad) + "\n" + json.dumps(GOOD[2]) + "\n")
    with pytest.raises(InputError) as caught:
        read_records(str(path))
    assert "1 bad record: line 2: " in str(caught.value) and "--skip-bad" in str(caught.value)
    assert "\n" not in str(caught.value)
    records, problems = read_records(str(path), skip_bad=True)
    assert [record.question for record in records] == ["Capital of Peru?", "Weighted?"]
    (problem,) = problems
    assert problem.startswith("line 2: ") and reason in problem


def test_broken_json_on_line_317(tmp_path: Path) -> None:
    lines = [json.dumps(OK)] * 320
    lines[316] = '{"question": "q", "answers": ["a"'
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"line 317: broken JSON .*column"):
        read_records(str(path))
    records, problems = read_records(str(path), skip_bad=True)
    assert len(records) == 319 and len(problems) == 1
    assert "317" not in {record.id for record in records}


@pytest.mark.parametrize("line", ["[" * 100_000, '{"id": ' + "1" * 5000 + "}", "[" * 900 + "]" * 900, "\x00"])
def test_hostile_lines_are_bad_records(tmp_path: Path, line: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f"{json.dumps(OK)}\n{line}\n")
    records, (problem,) = read_records(str(path), skip_bad=True)
    assert len(records) == 1 and problem.startswith("line 2: ") and len(problem) < 300


def test_ids_that_come_twice(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(jsonl([{**OK, "id": "x"}, {**OK, "id": 5}, {**OK, "id": "5"}]))
    assert read_records(str(path), skip_bad=True)[1] == ["line 3: the id '5' is already that of line 2"]


def test_many_bad_records_are_counted_and_the_first_named(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("x\n" * 20)
    with pytest.raises(InputError, match=r"20 bad records: line 1: .*line 2: .*line 3: .*; and 17 more"):
        read_records(str(path))
    with pytest.raises(InputError, match=r"no records \(20 bad"):
        read_records(str(path), skip_bad=True)


def test_bad_rows_of_csv_are_named_by_their_number(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(
        "question, answers,weights\n"
        'one,"[""a""]",\n'
        '"two\n\nthree",Lima,\n'
        'four,"[""a""]","1,2"\n'
        "\n"
        " ,,\n"
        'six,"[""a""]"\n'
        'seven,"{}",\n'
        ',"[""a""]",\n'
        'eight,"[""a""]","[2]"\n'
    )
    records, problems = read_records(str(path), skip_bad=True)
    assert [(record.id, record.question, record.weights) for record in records] == [
        ("1", "one", None),
        ("5", "six", None),
        ("8", "eight", (2.0,)),
    ]
    assert [problem.split(":")[0] for problem in problems] == [f"row {n}" for n in (2, 3, 6, 7)]
    assert 'JSON list such as ["Lima", "City of Lima"], not \'Lima\'' in problems[0]
    assert "[1, 0.5]" in problems[1]


def test_a_csv_without_its_last_quote_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text('question,answers\none,"[""a""]"\ntwo,"[""a""]\nthree,x\n')
    with pytest.raises(InputError, match=r"broken CSV \(unexpected end of data\): is a quote missing"):
        read_records(str(path), skip_bad=True)


def test_a_cell_of_csv_may_be_as_long_as_the_file(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(f'question,context,answers\none,{"x" * 200_000},"[""a""]"\n')
    (record,), problems = read_records(str(path))
    assert (record.question, record.answers, problems) == ("one", ("a",), [])


def test_a_row_of_csv_with_too_many_cells_is_left_out_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text('question,answers\none,"[""a""]"\ntwo, you say,"[""a""]"\nthree,"[""a""]"\n')
    records, problems = read_records(str(path), skip_bad=True)
    assert [record.id for record in records] == ["1", "3"]
    assert problems == ["row 2: 3 cells under a header of 2: put quotes around a text with commas"]
    with pytest.raises(InputError, match="row 2: 3 cells"):
        read_records(str(path))


def test_bad_rows_of_a_frame_are_named_by_row() -> None:
    frame = pd.DataFrame(
        {
            "id": [1.0, np.nan, 3.0],
            "question": ["q", "r", None],
            "answers": [np.array(["a"]), ["b"], np.array([], dtype=object)],
            "paraphrases": [np.array(["p"], dtype=object), None, pd.NA],
            "weights": [np.array([1, 2]), np.nan, None],
        }
    )
    records, problems = build_records(table_rows(pyarrow.Table.from_pandas(frame)))
    assert records == [Record("1", "q", ("a",), ("p",), (1.0, 2.0)), Record("2", "r", ("b",))]
    assert problems == ["row 3: the column 'question' is missing: a record has question and answers"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def fails(name: str, data: bytes | None, match: str) -> None:
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(InputError, match=match) as caught:
            read_records(str(path), skip_bad=True)
        assert "\n" not in str(caught.value)

    (tmp_path / "folder.jsonl").mkdir()
    fails("missing.jsonl", None, "No such file")
    fails("folder.jsonl", None, "is a folder")
    fails("below.jsonl/x.jsonl", None, "No such file")
    fails("n" * 300 + ".jsonl", None, "too long")
    fails("a\0b.jsonl", None, "null")
    fails("empty.csv", b"", "is empty")
    fails("blank.jsonl", b"\n \n", "is empty")
    fails("mark.jsonl", codecs.BOM_UTF8, "no records")
    fails("header.csv", b"question,answers\n", "no records")
    fails("none.json", b"[]", "no records")
    fails("data.txt", b"x", r"must end in .jsonl, .json, .csv, .parquet, .feather, or be webqa")
    fails("latin.jsonl", jsonl([OK]).encode() + '{"question": "é"'.encode("latin-1"), "line 2 is not UTF-8")
    fails("wide.csv", csv_text([OK]).encode("utf-16"), "not UTF-8")
    fails("lines.json", jsonl([OK, OK]).encode(), "name it .jsonl")
    fails("broken.json", b'[\n{"question": }]', "line 2 column 14")
    fails("other.csv", b"prompt,answers\n1,2\n", "no column 'question', only 'prompt, answers'")
    fails("lacking.csv", b"question,id\n1,2\n", "lacking.csv has no column 'answers', only 'question, id'")
    fails("twice.csv", b"question,answers,question\n1,2,3\n", "two columns 'question'")
    fails("quote.csv", b'"question,answers\n1,2\n', "broken CSV")
    fails("text.parquet", b"not parquet", 'as parquet: [^"].*not a parquet file.$')  # the end tells what is wrong
    fails("text.feather", b"not feather", "as feather")


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read everything
    with pytest.raises(InputError, match="Permission denied"):
        read_records(str(tmp_path / "data.jsonl"))


MYRIAD = pd.DataFrame(
    [
        ("u1", "P36", "Peru", ["Lima", "Ciudad de los Reyes"], "[Y] is the capital of [X] .", False),
        ("u2", "P36", "[Y] Land", ["Oslo"], "The capital of [X] is [Y].", True),
        ("u1", "P36", "Peru", ["Lima"], "The capital of [X] is [Y].", True),
        ("u1", "P36", "Peru", ["Lima"], "[X]'s capital, [Y].", True),
        ("u1", "P36", "Peru", ["Lima"], "The capital of [X] is [Y].", False),
        ("u3", "P36", "Chile", ["Santiago"], "no slots", True),
    ],
    columns=["uuid", "rel_uri", "sub_ent", "obj_aliases", "template", "is_manual"],
)


def test_myriadlama_rows_become_cloze_questions() -> None:
    records, problems = build_records(cloze_rows(pyarrow.Table.from_pandas(MYRIAD)))
    assert records == [
        Record(
            "u1",
            "The capital of Peru is [MASK].",
            ("Lima", "Ciudad de los Reyes"),
            ("Peru's capital, [MASK].", "[MASK] is the capital of Peru ."),
        ),
        Record("u2", "The capital of [Y] Land is [MASK].", ("Oslo",)),  # a subject is never a slot
    ]
    assert problems == ["row 6: a template must have [X] and [Y], not 'no slots'"]
    assert [record.id for record in build_records(cloze_rows(pyarrow.Table.from_pandas(MYRIAD)), limit=1)[0]] == ["u1"]


def test_named_sets_are_read_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "datasets" / "stanfordnlp" / "web_questions" / "data"
    data.mkdir(parents=True)
    for split in ("test", "train"):
        frame = pd.DataFrame({"url": ["u", "u"], "question": [f"{split} 1?", f"{split} 2?"], "answers": [["a"], ["b"]]})
        frame[:1].to_parquet(data / f"{split}-00000-of-00002.parquet")
        frame[1:].to_parquet(data / f"{split}-00001-of-00002.parquet")
    converted = tmp_path / "datasets" / "iszhaoxin" / "MyriadLAMA@refs" / "convert" / "parquet" / "default" / "train"
    converted.mkdir(parents=True)
    (tmp_path / "datasets" / "iszhaoxin" / "MyriadLAMA").mkdir()
    MYRIAD[:5].to_parquet(converted / "0000.parquet")
    monkeypatch.setattr(
        huggingface_hub, "HfFileSystem", lambda: DirFileSystem(path=str(tmp_path), fs=LocalFileSystem())
    )

    assert [r.question for r in read_records("webqa")[0]] == ["test 1?", "test 2?"]
    assert [r.question for r in read_records("webqa:train", limit=1)[0]] == ["train 1?"]
    assert [r.id for r in read_records("myriadlama")[0]] == ["u1", "u2"]
    one = read_records("hf://datasets/stanfordnlp/web_questions/data/test-00000-of-00002.parquet")[0]
    assert one == [Record("1", "test 1?", ("a",))]
    with pytest.raises(InputError, match="no such file"):
        read_records("hf://datasets/stanfordnlp/web_questions/data/dev.parquet")
    with pytest.raises(InputError, match="hf://datasets/OWNER/NAME/FILE"):
        read_records("hf://models/x.jsonl")
    with pytest.raises(InputError, match="webqa:train"):
        read_records("webqa:dev")


@pytest.mark.parametrize("source", ["webqa", "myriadlama", "hf://datasets/someone/something/data.jsonl"])
def test_without_network_the_error_is_one_line(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"Hub \(.*offline.*local file") as caught:
        read_records(source)
    assert "\n" not in str(caught.value)


def test_fingerprints_tell_data_sets_apart() -> None:
    base = fingerprint(EXPECTED)
    assert base == fingerprint(list(EXPECTED)) and len(base) == 64
    others = [
        EXPECTED[:2],
        EXPECTED[::-1],
        [*EXPECTED[:2], Record("3", "Weighted?", ("1",), ("w",), None)],
        [Record("a", "Capital of Peru?", ("Lima ",)), *EXPECTED[1:]],
    ]
    assert len({base, *map(fingerprint, others)}) == 5


def test_shots_are_never_among_the_questions_asked() -> None:
    records = [Record(str(i), f"What is {i}?", (f"{i}", "other")) for i in range(30)]
    asked = [f"  what IS the {i}" for i in range(20)]  # the same questions in another form
    shots = draw_shots(records, 5, seed=3, exclude=asked)
    assert all(normalise(q) == normalise(f"What is {a}?") and int(a) >= 20 for q, a in shots)
    assert len(set(shots)) == 5
    assert shots == draw_shots(records, 5, seed=3, exclude=asked)
    assert len({draw_shots(records, 5, seed=seed, exclude=asked) for seed in range(20)}) > 10
    state = random.getstate()
    assert draw_shots(records, 0, seed=1) == () and random.getstate() == state
    with pytest.raises(InputError, match="cannot draw 11 shots: 10 questions"):
        draw_shots(records, 11, seed=3, exclude=asked)


def test_a_shots_texts_are_a_line_each_whatever_they_hold() -> None:
    records = [Record("1", "one\nA: wrong\nQ: two", ("x\ny",)), Record("2", "One A: wrong, Q: TWO", ("z",))]
    assert draw_shots(records, 1, seed=0) == (("one A: wrong Q: two", "x y"),)
