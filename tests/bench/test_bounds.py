"""Results files that unpack to more than they seem, and damaged ones: told before they are read."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from flexdemo.data.table import COLUMNS, read_table
from flexdemo.errors import InputError
from flexdemo.gone.bounds import Bounds, read_feather, read_parquet

# Results files that unpack to more than they seem


def packed(columns: dict[str, Any], form: str) -> bytes:
    out, made = io.BytesIO(), pa.table(columns)
    if form == "feather":
        feather.write_feather(made, out, compression="zstd")
    else:
        parquet.write_table(made, out, compression="zstd")
    return out.getvalue()


@pytest.mark.parametrize("form", ["feather", "parquet"])
@pytest.mark.parametrize(
    ("column", "said"),
    [
        (lambda: pa.array(np.zeros(2_000_000, dtype="int64")), "holds more than 1,000 rows"),
        (lambda: pa.array([[""] * 2_000_000]), "holds more than 30,000 values"),
        (lambda: pa.array(["x" * 100_000] * 900), "holds more than 1,000,000 bytes when unpacked"),
        (lambda: pa.array([["x" * 100_000] * 30] * 30), "holds more than 1,000,000 bytes when unpacked"),
    ],
)
def test_a_bomb_is_told_before_it_goes_off(form: str, column: Any, said: str) -> None:
    data = packed({"a": column()}, form)
    assert len(data) < 200_000
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.system_memory_pool())
    pa.set_memory_pool(pool)
    try:
        with pytest.raises(ValueError, match=f"^{said}, the most that can be opened here$"):
            {"feather": read_feather, "parquet": read_parquet}[form](data, Bounds(1_000, 1_000_000))
        assert pool.max_memory() < 8_000_000
    finally:
        pa.set_memory_pool(before)


def test_types_that_unpack_to_any_size_are_refused() -> None:
    many = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1000, dtype="int32")), pa.array(["x" * 1000]))
    with pytest.raises(ValueError, match=r"^it holds a dictionary"):
        read_feather(packed({"a": many}, "feather"))
    for column in (pa.array([{"a": 1}]), pa.array([b"x"]), pa.array([[[1]]])):
        for form, read in (("feather", read_feather), ("parquet", read_parquet)):
            with pytest.raises(ValueError, match=r"^column 'a' is of type "):
                read(packed({"a": column}, form))


@pytest.mark.parametrize("compression", ["lz4", "zstd", "uncompressed"])
def test_feather_is_read_as_pyarrow_reads_it(compression: str) -> None:
    columns = {"a": ["x", None, "é"], "b": [["p", "q"], [], None], "c": [True, None, False], "d": [1.5, None, -2.0]}
    out = io.BytesIO()
    feather.write_feather(pa.table(columns), out, compression=compression, chunksize=2)
    assert read_feather(out.getvalue(), Bounds(3, 10_000)) == columns == feather.read_table(out).to_pydict()
    assert read_parquet(packed(columns, "parquet"), Bounds(3, 10_000)) == columns


@pytest.mark.parametrize("form", ["feather", "parquet"])
def test_damaged_files_are_refused_and_break_nothing(tmp_path: Path, form: str) -> None:
    rng = np.random.default_rng(7)
    whole = packed({name: pa.array(["x", "yy", "zzz"] * 50) for name in COLUMNS}, form)
    for i in range(150):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), size=1 + i % 4):
            data[place] = rng.integers(0, 256)
        path = tmp_path / f"x.{form}"
        path.write_bytes(bytes(data[: len(data) - (i % 3) * 40]))
        with pytest.raises(InputError) as refused:  # if it can be read, its columns are texts
            read_table(path, Bounds(1_000, 1_000_000))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "line",
    [b'{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"tokens": ' + b"9" * 5000 + b"}", b"[]", b"1",
     b'"\\ud800"'],
)  # fmt: skip
def test_lines_that_are_no_rows(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(line)
    with pytest.raises(InputError, match="it is no results table of this program"):
        read_table(tmp_path / "x.jsonl")


def test_a_number_beyond_its_column_is_refused(tmp_path: Path) -> None:
    row = dict.fromkeys(COLUMNS, "x") | {"paraphrases": [], "answers": [], "lemma_match": None, "agreement": None}
    row |= {"lemma_match_both": None, "exact_match": True, "contains": True, "token_f1": 1.0, "seconds": 1.0}
    row |= {"prompt_tokens": 1, "rows": 1, "tokens": 10**30}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match="it is no results table of this program"):
        read_table(tmp_path / "x.jsonl")
