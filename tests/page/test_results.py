"""A results file on the page: numbers counted by hand, texts as data, and what is said of files that cannot be used."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path

import pytest

from flexdemo.data.table import FORMATS, Row, write_table
from flexdemo.errors import InputError
from flexdemo.page.results import changes_of, disagreements_html, open_results, record_note, summary_html
from flexdemo.request import Limits

NASTY = "<script>alert(1)</script> <b>bold</b> &lt; \" '"
BASE = Row(
    id="r", question="q?", paraphrases=("one", "two"), answers=("Lima", "City of Kings"), method="flex", view="flex",
    prediction="Lima", generation=" Lima", tokens=1, exact_match=True, contains=True, token_f1=1.0, lemma_match=None,
    lemma_match_both=None, agreement=None, prompt_tokens=10, rows=1, seconds=0.5,
)  # fmt: skip


def answer(record: str, method: str, prediction: str, right: bool) -> Row:
    return replace(
        BASE, id=record, question=f"{record}? {NASTY}", method=method, view=method, prediction=prediction,
        exact_match=right, contains=right, token_f1=float(right),
    )  # fmt: skip


ROWS = (
    answer("a", "flex", "Lima", True), answer("a", "avg", "lima.", True), answer("a", "causal", "Cusco", False),
    answer("b", "flex", "Lima", True), answer("b", "avg", "Lima", True), answer("b", "causal", "Lima", True),
    answer("c", "flex", "Lima", True), answer("c", "avg", NASTY, False), answer("c", "causal", "", False),
    answer("d", "flex", "Quito", False), answer("d", "avg", "Quito", False), answer("d", "causal", "Quito", False),
)  # fmt: skip


def text(piece: str) -> str:
    return html.unescape(re.sub("<[^>]*>", " ", piece))


@pytest.fixture(scope="module", params=FORMATS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("secret-folder") / f"mine{request.param}"
    write_table(ROWS, made)
    return made


def test_summary_has_the_accuracies_counted_by_hand(path: Path) -> None:
    opened = open_results(path, Limits())
    lines = [text(line).split() for line in re.findall("<tr>(.*?)</tr>", summary_html(opened))]
    shares = {line[0]: line[2] for line in lines[1:]}
    assert shares == {"flex": "0.750", "avg": "0.500", "causal": "0.250"}
    assert opened.name == path.name and f"{path.name}: 4 questions" in summary_html(opened)
    assert "over 4 questions" in changes_of(opened)["results_notes"]


def test_records_where_methods_disagree_are_listed_with_who_is_right(path: Path) -> None:
    opened = open_results(path, Limits())
    assert [record.id for record in opened.disagreements] == ["a", "c"]
    page = disagreements_html(opened)
    assert "<script" not in page and "<b>bold" not in page
    first, second = re.findall("<tr><td>(.*?)</tr>", page)
    said = [" ".join(text(each).split()) for each in re.findall("<div>(.*?)</div>", first + second)]
    plain = " ".join(NASTY.split())
    assert said == [
        "✓ Lima flex", "✓ lima. avg", "✕ Cusco causal", "✓ Lima flex", f"✕ {plain} avg", "✕ (nothing) causal",
    ]  # fmt: skip
    assert 'data-record="0" aria-label="Fill in record a"' in first and 'data-record="1"' in second
    assert "Lima / City of Kings" in text(first)


def test_a_file_without_disagreements_says_so(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    write_table(ROWS[3:6], path)
    assert "There are none" in disagreements_html(open_results(path, Limits()))


def test_the_note_of_a_filled_record_is_escaped_and_tells_of_rows_left_out(path: Path) -> None:
    record = replace(open_results(path, Limits()).disagreements[0], id=NASTY, paraphrases=("x",) * 12)
    said = record_note("<i>.csv", record, 10)
    assert "<" not in said and "first 10 of 12 paraphrases" in said
    assert f"Record {NASTY} of <i>.csv, right: Lima / City of Kings." in html.unescape(said)


@pytest.mark.parametrize(
    ("name", "content", "limits", "said"),
    [
        ("x.csv", b"a,b\n1,2\n", {}, "cannot read x.csv: it is no results table of this program"),
        ("x.feather", b"junk", {}, "cannot read x.feather: it is no results table"),
        ("x.parquet", b"", {}, "cannot read x.parquet: it is no results table"),
        ("x.jsonl", b"\xff\xfe", {}, "cannot read x.jsonl: it is no results table"),
        ("x.exe", b"", {}, "the file must end in .feather, .parquet, .csv, .jsonl"),
        ("x.jsonl", b"", {}, "the results table has no rows"),
        ("x.csv", b"x" * 2_000_001, {"file_bytes": 2_000_000}, "the file x.csv has 2.0 MB: at most 2 MB"),
    ],
)
def test_a_file_that_cannot_be_shown_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes, limits: dict, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(said)) as refused:
        open_results(tmp_path / name, Limits(**limits))
    assert str(tmp_path) not in str(refused.value) and "\n" not in str(refused.value)


def test_too_many_rows_are_refused(path: Path) -> None:
    with pytest.raises(InputError, match=r"^the file mine\.[a-z]+ has 12 rows: at most 11 can be opened here$"):
        open_results(path, Limits(file_rows=11))
