"""Results tables come back exactly as written, and a run that was killed goes on where it was."""

from __future__ import annotations

import csv
import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flexdemo.data import files, journal, table
from flexdemo.data.journal import Journal, check_run, finish
from flexdemo.data.table import FORMATS, Row, read_table, table_frame, write_table
from flexdemo.errors import InputError

ROW = Row(
    id="7",
    question="Capital of Peru?",
    paraphrases=("Name it.",),
    answers=("Lima",),
    method="flex",
    view="flex",
    prediction="Lima",
    generation=" Lima\n",
    tokens=2,
    exact_match=True,
    contains=True,
    token_f1=1.0,
    lemma_match=None,
    lemma_match_both=None,
    agreement=None,
    prompt_tokens=31,
    rows=1,
    seconds=0.25,
)
TEXTS = [
    "",
    " ",
    "=1+1",
    "+1",
    "-1",
    "@x",
    "\tx",
    "\rx",
    "\nx",
    "'=1",
    "''=1",
    "'plain",
    "'",
    "a,b",
    '"quoted"',
    "two\r\nlines",
    "lone\rreturn",
    "null",
    "NaN",
    "None",
    "1.50",
    "True",
    "東京 é \u2028 \U0001f642",
    "<b>&amp;",
    "back\\slash",
]
MANY = [
    *(replace(ROW, id=f"t{i}", generation=text, prediction=text, question=text) for i, text in enumerate(TEXTS)),
    *(replace(ROW, id=f"l{i}", paraphrases=(text, text), answers=(text,)) for i, text in enumerate(TEXTS)),
    replace(ROW, paraphrases=(), answers=("a", "b"), lemma_match=True, lemma_match_both=False, agreement=1 / 3),
    replace(ROW, exact_match=False, contains=False, token_f1=0.1 + 0.2, seconds=1e-300, tokens=2**53 + 1),
]


def to_rows(frame: pd.DataFrame) -> list[Row]:
    """A frame's rows as they were before they were written."""
    rows = []
    for columns in frame.to_dict("records"):
        gone = {
            name: None if not isinstance(value, list) and pd.isna(value) else value for name, value in columns.items()
        }
        rows.append(Row(**{name: tuple(v) if isinstance(v, list) else v for name, v in gone.items()}))
    return rows


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.filterwarnings("error")
def test_a_table_comes_back_exactly(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"results{ending}"
    write_table(MANY, path)
    frame = read_table(path)
    assert to_rows(frame) == MANY
    pd.testing.assert_frame_equal(frame, table_frame(MANY), check_exact=True)
    assert list(frame.columns) == list(asdict(ROW))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", FORMATS)
def test_an_empty_table_has_all_columns(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"results{ending}"
    write_table([], path)
    if ending == ".jsonl":
        assert path.read_bytes() == b""
    pd.testing.assert_frame_equal(read_table(path), table_frame([]))


def test_columnar_files_hold_lists_and_others_json(tmp_path: Path) -> None:
    rows = [replace(ROW, answers=("a", "b"))]
    for ending, read in ((".feather", pd.read_feather), (".parquet", pd.read_parquet)):
        write_table(rows, tmp_path / f"x{ending}")
        assert list(read(tmp_path / f"x{ending}")["answers"][0]) == ["a", "b"]
    write_table(rows, tmp_path / "x.csv")
    assert pd.read_csv(tmp_path / "x.csv")["answers"][0] == '["a", "b"]'
    write_table(rows, tmp_path / "x.jsonl")
    assert json.loads((tmp_path / "x.jsonl").read_text())["answers"] == ["a", "b"]


def test_no_csv_cell_is_a_formula(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    write_table(MANY, path)
    with path.open(newline="", encoding="utf-8") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert len(cells) > 18 * len(MANY)
    assert not [cell for cell in cells if cell and cell[0] in "=+-@\t\r\n"]


def test_csv_that_a_spreadsheet_has_saved_comes_back(tmp_path: Path) -> None:
    rows = [
        replace(
            ROW, question="Who; when, and why?", generation=" Lima", token_f1=0.25, exact_match=True, contains=False
        )
    ]
    write_table(rows, tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    saved = [cell.upper() if cell in ("true", "false") else cell.replace("0.25", "0,25") for cell in lines[0]]
    with (tmp_path / "y.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=";").writerows([header, saved])
    assert "TRUE" in saved and "0,25" in saved
    assert to_rows(read_table(tmp_path / "y.csv")) == rows
    text = (tmp_path / "y.csv").read_text(encoding="utf-8-sig")
    for name, changed in (("cr", text.replace("\n", "\r")), ("rows", f"{text}{';' * (len(header) - 1)}\n")):
        (tmp_path / f"{name}.csv").write_bytes(changed.encode())
        assert to_rows(read_table(tmp_path / f"{name}.csv")) == rows
    (tmp_path / "tab.csv").write_text(text.replace(";", "\t"))  # of the question as well, which is quoted
    assert to_rows(read_table(tmp_path / "tab.csv"))[0].token_f1 == 0.25
    for old, new, said in (
        ("TRUE", "WAHR", "row 1, column 'exact_match': 'WAHR' is no bool"),
        (";2;TRUE", ";1.200;TRUE", "row 1, column 'tokens': '1.200' is no int64"),
    ):
        assert old in text
        (tmp_path / "bad.csv").write_text(text.replace(old, new, 1))
        with pytest.raises(InputError, match=re.escape(said)):
            read_table(tmp_path / "bad.csv")


def test_a_column_of_ones_own_with_a_semicolon_in_its_name_separates_nothing(tmp_path: Path) -> None:
    row = replace(ROW, generation=" Lima")
    write_table([row], tmp_path / "x.csv")
    header, line = (tmp_path / "x.csv").read_text().splitlines()
    (tmp_path / "x.csv").write_text(f'{header},"note; mine"\n{line},seen\n')
    assert to_rows(read_table(tmp_path / "x.csv")) == [row]


def test_long_cells_of_csv_come_back(tmp_path: Path) -> None:
    row = replace(ROW, generation="x" * 200_000)
    before = csv.field_size_limit()
    write_table([row], tmp_path / "x.csv")
    assert to_rows(read_table(tmp_path / "x.csv")) == [row]
    assert csv.field_size_limit() == before


def test_what_is_no_results_table_is_refused(tmp_path: Path) -> None:
    for name, data, match in (
        ("a.csv", b"id,question\n1,2\n", "no results table"),
        ("b.csv", b"", "no results table"),
        ("a.jsonl", b'{"id": "1"}\n', "no results table"),
        ("b.jsonl", b"[1]\n", "no results table"),
        ("a.parquet", b"x", "no results table"),
        ("a.feather", b"x", "no results table"),
        ("latin.csv", b"\xff\xfe", "no results table"),
        ("a.txt", b"x", "must end in"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=match) as caught:
            read_table(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="No such file"):
        read_table(tmp_path / "missing.csv")
    with pytest.raises(InputError, match="is a folder"):
        (tmp_path / "folder.csv").mkdir()
        read_table(tmp_path / "folder.csv")
    pd.DataFrame({"id": ["1"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match="no column 'question'"):
        read_table(tmp_path / "other.parquet")
    write_table([ROW], tmp_path / "x.csv")
    text = (tmp_path / "x.csv").read_text()
    for old, new in (("true", '"""yes"""'), ("true", ""), ('"[""Lima""]"', "5"), ('"[""Lima""]"', "[null]")):
        (tmp_path / "y.csv").write_text(text.replace(old, new, 1))
        with pytest.raises(InputError, match="no results table"):
            read_table(tmp_path / "y.csv")


# The journal

SETTINGS = {"data": "abc", "model": "m", "methods": ["flex", "causal"], "limit": None}
TOTAL = 3


def rows_of(index: int) -> list[Row]:
    return [replace(ROW, id=str(index), question=f"q{index}\n", method=m, view=m) for m in ("flex", "causal")]


def work(output: Path, ours: range = range(TOTAL), **options: Any) -> list[int]:
    """What a process does: answers what is not done yet, one record a batch. Returns what it answered."""
    with Journal.open(output, options.pop("settings", SETTINGS), **options) as run:
        todo = [index for index in ours if index not in run.done]
        for index in todo:
            run.append([index], {index: rows_of(index)})
    return todo


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """The table of an uninterrupted run."""
    output = tmp_path / "whole" / "x.jsonl"
    output.parent.mkdir()
    assert work(output) == [0, 1, 2]
    finish(output, SETTINGS, TOTAL)
    assert names(output.parent) == {"x.jsonl", "x.jsonl.meta.json"}
    data = output.read_bytes()
    assert [json.loads(line)["id"] for line in data.splitlines()] == ["0", "0", "1", "1", "2", "2"]
    return data


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "x.jsonl"


def test_a_run_cut_at_any_byte_goes_on_to_the_same_table(
    whole: bytes, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(output)
    partial = output.with_name("x.jsonl.partial-0.jsonl")
    data = partial.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    assert len(ends) == 1 + TOTAL
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # thousands of them
    monkeypatch.setattr(journal, "versions", lambda *_: {})
    for cut in range(len(data) + 1):
        partial.write_bytes(data[:cut])
        lost = work(output, resume=True)
        # At most the batch that was being written is done again, and all after it.
        assert lost == list(range(max(0, sum(end <= cut for end in ends) - 1), TOTAL))
        finish(output, SETTINGS, TOTAL)
        assert output.read_bytes() == whole
        for path in output.parent.iterdir():
            path.unlink()


def test_a_batch_is_on_the_disk_when_append_returns(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    real = os.fsync
    with Journal.open(output, SETTINGS) as run:
        monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_size), real(handle)))
        run.append([1, 0], {0: rows_of(0), 1: rows_of(1)})
        assert synced == [run.path.stat().st_size]
        assert run.path.read_bytes().count(b"\n") == 2  # the header and one line for the batch
        assert run.done == {0, 1}


def test_two_processes_and_then_another_number_of_them(whole: bytes, output: Path) -> None:
    first = Journal.open(output, SETTINGS, rank=0)
    second = Journal.open(output, SETTINGS, rank=1)
    second.append([1], {1: rows_of(1)})
    first.append([2], {2: rows_of(2)})
    first.close(), second.close()
    assert names(output.parent) == {"x.jsonl.partial-0.jsonl", "x.jsonl.partial-1.jsonl"}
    with pytest.raises(InputError, match="1 of 3 records have no results"):
        finish(output, SETTINGS, TOTAL)
    assert not output.exists()
    with Journal.open(output, SETTINGS, resume=True, rank=0) as run:
        assert run.done == {1, 2}
        for rank in (1, 2):
            with Journal.open(output, SETTINGS, resume=True, rank=rank) as other:
                assert other.done == {1, 2}
                if rank == 2:
                    other.append([0], {0: rows_of(0)})
    finish(output, SETTINGS, TOTAL)
    assert output.read_bytes() == whole
    assert names(output.parent) == {"x.jsonl", "x.jsonl.meta.json"}


def test_one_process_ends_what_two_began_and_a_record_done_twice_counts_once(whole: bytes, output: Path) -> None:
    with Journal.open(output, SETTINGS, rank=0) as first:
        with Journal.open(output, SETTINGS, rank=1) as second:
            second.append([1], {1: rows_of(1)})
        first.append([1], {1: rows_of(1)})
    assert work(output, resume=True) == [0, 2]
    finish(output, SETTINGS, TOTAL)
    assert output.read_bytes() == whole


def test_existing_results_are_never_touched_unasked(whole: bytes, output: Path) -> None:
    work(output, range(2))
    before = {path.name: path.read_bytes() for path in output.parent.iterdir()}
    refused = {"resume": False, "overwrite": False}
    for attempt in (lambda: Journal.open(output, SETTINGS), lambda: check_run(output, **refused)):
        with pytest.raises(InputError, match=r"partial-0.jsonl exists: --resume goes on, --overwrite starts again"):
            attempt()
    with pytest.raises(InputError, match="choose one of"):
        Journal.open(output, SETTINGS, resume=True, overwrite=True)
    check_run(output, resume=False, overwrite=True)
    check_run(output, resume=True, overwrite=False)
    assert {path.name: path.read_bytes() for path in output.parent.iterdir()} == before
    work(output, resume=True)
    finish(output, SETTINGS, TOTAL)
    with pytest.raises(InputError, match=r"x.jsonl exists"):
        Journal.open(output, SETTINGS)
    assert output.read_bytes() == whole


def test_overwrite_removes_what_was_there_when_the_new_run_begins(output: Path) -> None:
    work(output)
    finish(output, SETTINGS, TOTAL)
    with Journal.open(output, SETTINGS, overwrite=True) as run:
        assert run.done == frozenset()
        assert names(output.parent) == {"x.jsonl.partial-0.jsonl"}
    other = SETTINGS | {"model": "n"}
    with Journal.open(output, other, overwrite=True) as run:
        assert run.done == frozenset()
    assert work(output, settings=other, resume=True) == [0, 1, 2]


def test_a_finished_table_has_nothing_left_to_do(whole: bytes, output: Path) -> None:
    work(output)
    finish(output, SETTINGS, TOTAL)
    for rank in (0, 1):
        with Journal.open(output, SETTINGS, resume=True, rank=rank) as run:
            assert run.done == {0, 1, 2}
    finish(output, SETTINGS, TOTAL)
    assert output.read_bytes() == whole
    assert names(output.parent) == {"x.jsonl", "x.jsonl.meta.json"}
    meta = json.loads(output.with_name("x.jsonl.meta.json").read_text())
    assert meta["settings"] == SETTINGS and meta["total"] == TOTAL and meta["rows"] == 6
    assert {"python", "pandas", "pyarrow"} <= set(meta["versions"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": "n"}, 'its model is "m", not "n"'),
        ({"data": "def"}, 'its data is "abc", not "def"'),
        ({"methods": ["flex"]}, 'its methods is ["flex", "causal"], not ["flex"]'),
        ({"limit": 5}, "its limit is null, not 5"),
        ({"seed": 0}, "its seed is nothing, not 0"),
        ({"limit": ...}, "its limit is null, not nothing"),
        ({"model": "x" * 500}, 'not "xxx'),
    ],
)
def test_results_of_other_settings_are_refused(output: Path, changed: dict[str, Any], said: str) -> None:
    other = {key: value for key, value in (SETTINGS | changed).items() if value is not ...}
    work(output)
    for end in (lambda: None, lambda: finish(output, SETTINGS, TOTAL)):
        end()
        before = names(output.parent)
        for attempt in (
            lambda: Journal.open(output, other, resume=True),
            lambda: finish(output, other, TOTAL),
        ):
            with pytest.raises(InputError) as caught:
                attempt()
            message = str(caught.value)
            assert said in message and "\n" not in message and len(message) < 500
        assert names(output.parent) == before


def test_tuples_and_lists_are_the_same_setting(output: Path) -> None:
    work(output, settings=SETTINGS | {"methods": ("flex", "causal")})
    assert work(output, resume=True) == []


def test_death_between_the_last_steps_loses_nothing(
    whole: bytes, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: Any) -> None:
        raise KeyboardInterrupt

    for owner, step in ((table, "write_file"), (journal, "write_file"), (journal, "_remove")):
        work(output)
        with monkeypatch.context() as patch:
            patch.setattr(owner, step, die)
            with pytest.raises(KeyboardInterrupt):
                finish(output, SETTINGS, TOTAL)
        assert work(output, resume=True) == [], step
        finish(output, SETTINGS, TOTAL)
        assert output.read_bytes() == whole
        assert names(output.parent) == {"x.jsonl", "x.jsonl.meta.json"}
        for path in output.parent.iterdir():
            path.unlink()


def test_a_table_that_cannot_be_written_leaves_the_partial_results(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(output)

    def full(rows: Any, path: Path) -> None:
        path.write_text("half a table")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(table.WRITERS, ".jsonl", full)
    with pytest.raises(InputError, match="No space left"):
        finish(output, SETTINGS, TOTAL)
    assert names(output.parent) == {"x.jsonl.partial-0.jsonl"}


def test_a_full_disk_while_a_batch_is_written(whole: bytes, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write

    def half(handle: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return real(handle, data[: len(data) // 2])

    with Journal.open(output, SETTINGS) as run:
        run.append([0], {0: rows_of(0)})
        monkeypatch.setattr(os, "write", half)
        with pytest.raises(InputError, match="No space left on device"):
            run.append([1], {1: rows_of(1)})
        monkeypatch.setattr(os, "write", real)
    assert work(output, resume=True) == [1, 2]
    finish(output, SETTINGS, TOTAL)
    assert output.read_bytes() == whole


def test_damage_is_named_and_not_guessed_around(output: Path) -> None:
    work(output)
    partial = output.with_name("x.jsonl.partial-0.jsonl")
    lines = partial.read_bytes().split(b"\n")
    partial.write_bytes(b"\n".join([*lines[:2], b"\x00\x00", *lines[2:]]))
    with pytest.raises(InputError, match="damaged at line 3"):
        Journal.open(output, SETTINGS, resume=True)
    work(output, overwrite=True)
    finish(output, SETTINGS, TOTAL)
    output.with_name("x.jsonl.meta.json").write_text("[]")
    with pytest.raises(InputError, match="describes no results table"):
        Journal.open(output, SETTINGS, resume=True)
    output.with_name("x.jsonl.meta.json").unlink()
    with pytest.raises(InputError, match=r"has no x.jsonl.meta.json"):
        Journal.open(output, SETTINGS, resume=True)


@pytest.mark.parametrize(
    "text",
    [
        "[]", "1", "null", '{"a": 1}', '{"settings": []}x', '{"settings": 3}', "HEADER\n[]", 'HEADER\n{"indices": [0]}',
        'HEADER\n{"indices": [0], "rows": []}',
    ],
)  # fmt: skip
def test_json_that_no_run_has_written_is_damage(output: Path, text: str) -> None:
    partial = output.with_name("x.jsonl.partial-0.jsonl")
    partial.write_text(text.replace("HEADER", json.dumps({"settings": SETTINGS})) + "\n")
    with pytest.raises(InputError, match=r"damaged.*--overwrite starts again"):
        Journal.open(output, SETTINGS, resume=True)


def test_rows_of_another_shape_and_of_no_record_finish_no_table(output: Path) -> None:
    for batch, said in (
        ({"indices": [0, 1, 2], "rows": [[{"id": "1"}]] * 3}, "damaged"),
        ({"indices": [99], "rows": [[]]}, "3 of 3 records have no results"),
    ):
        lines = map(json.dumps, ({"settings": SETTINGS}, batch))
        output.with_name("x.jsonl.partial-0.jsonl").write_text("\n".join(lines) + "\n")
        with pytest.raises(InputError, match=said):
            finish(output, SETTINGS, TOTAL)


def test_what_cannot_be_looked_at_is_told_in_a_line(tmp_path: Path) -> None:
    for length in (240, 300):
        with pytest.raises(InputError, match="File name too long"):
            Journal.open(tmp_path / f"{'x' * length}.csv", SETTINGS)


def test_names_with_signs_of_a_pattern(tmp_path: Path) -> None:
    output, other = tmp_path / "a[1]*.csv", tmp_path / "a1x.csv"
    work(other)
    assert work(output) == [0, 1, 2]
    finish(output, SETTINGS, TOTAL)
    assert names(tmp_path) == {"a[1]*.csv", "a[1]*.csv.meta.json", "a1x.csv.partial-0.jsonl"}


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    output = tmp_path / "new" / "folder" / "x.csv"
    assert work(output) == [0, 1, 2]
    finish(output, SETTINGS, TOTAL)
    assert output.is_file()


def test_a_link_stays_one(tmp_path: Path) -> None:
    """Also one that leads to nothing yet; what it leads to is written, and overwritten."""
    output, place = tmp_path / "x.csv", tmp_path / "store" / "x.csv"
    output.symlink_to(place)
    for overwrite in (False, True):
        Journal.open(output, SETTINGS, overwrite=overwrite).close()
        assert not place.exists()
        work(output, resume=True)
        finish(output, SETTINGS, TOTAL)
        assert output.is_symlink() and not place.is_symlink() and len(read_table(place)) == len(read_table(output)) > 0
        assert names(place.parent) == {"x.csv"}


def test_places_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.csv").mkdir()
    for path, match in (
        (tmp_path / "file" / "x.csv", "no permission"),
        (tmp_path / "folder.csv", "it is a folder"),
        (tmp_path / "x.txt", r"must end in .feather, .parquet, .csv, .jsonl"),
        (tmp_path / ("n" * 300 + ".csv"), "too long"),
    ):
        with pytest.raises(InputError, match=match):
            Journal.open(path, SETTINGS)
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(InputError, match="no permission to write there"):
        Journal.open(tmp_path / "x.csv", SETTINGS)
    assert names(tmp_path) == {"file", "folder.csv"}
