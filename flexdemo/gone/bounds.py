"""Feather and Parquet read within bounds: what a file would unpack to is checked from what it tells, before it is read.

Knows columns of texts, numbers, truth values and lists of texts, and no results. Errors are ValueErrors in one line.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

MAGIC, RECORD_BATCH, SCHEMA = b"ARROW1\0\0", 3, 1
VALUES_A_ROW = 30  # that a table may hold on average, items of lists included


class TooMuch(ValueError):
    """A file above its bounds; the message goes on after the file's name."""


@dataclass(frozen=True)
class Bounds:
    """How much a file may hold: rows, and bytes once it is unpacked."""

    rows: float = math.inf
    unpacked: float = math.inf

    @property
    def values(self) -> float:
        return VALUES_A_ROW * max(self.rows, 1000)

    def check(self, rows: int, values: int, unpacked: int) -> None:
        """Raise TooMuch for the first bound that is passed."""
        for told, most, what in (
            (rows, self.rows, "rows"), (values, self.values, "values"), (unpacked, self.unpacked, "bytes when unpacked")
        ):  # fmt: skip
            if told > most:
                raise TooMuch(f"holds more than {most:,.0f} {what}, the most that can be opened here")


ANY = Bounds()


def read_feather(data: bytes, bounds: Bounds = ANY) -> dict[str, list[Any]]:
    """The columns of a Feather (version 2) file, its record batches read in their order."""
    import pyarrow

    if not data.startswith(MAGIC):
        raise ValueError("it is no Feather file of version 2")
    messages = pyarrow.ipc.MessageReader.open_stream(pyarrow.py_buffer(data)[len(MAGIC) :])
    schema: pyarrow.Schema | None = None
    batches, rows, values, unpacked = [], 0, 0, 0
    for message in messages:
        if message.type == "schema" and schema is None:
            schema = pyarrow.ipc.read_schema(message)
            _check_types(schema)
        elif message.type == "record batch" and schema is not None:
            told = _batch_told(message.metadata.to_pybytes(), message.body)
            rows, values, unpacked = rows + told[0], values + told[1], unpacked + told[2]
            bounds.check(rows, values, unpacked)
            batch = pyarrow.ipc.read_record_batch(message, schema)
            batch.validate(full=True)  # offsets may be anything until then
            batches.append(batch)
        else:
            raise ValueError(f"it holds a {message.type}, which no table written here does")
    if schema is None:
        raise ValueError("it holds no schema")
    return pyarrow.Table.from_batches(batches, schema).to_pydict()


def read_parquet(data: bytes, bounds: Bounds = ANY) -> dict[str, list[Any]]:
    """The columns of a Parquet file. Texts stay in their dictionaries until their lengths are known."""
    import pyarrow
    from pyarrow import parquet

    source = pyarrow.BufferReader(data)
    metadata = parquet.read_metadata(source)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    rows = max(metadata.num_rows, sum(group.num_rows for group in groups))
    bounds.check(rows, sum(each.num_values for each in chunks), sum(each.total_uncompressed_size for each in chunks))
    columns = [metadata.schema.column(i) for i in range(metadata.num_columns)]
    texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    file = parquet.ParquetFile(source, read_dictionary=texts)
    _check_types(file.schema_arrow)
    tables, unpacked = [], 0
    for i in range(metadata.num_row_groups):
        table = file.read_row_group(i, use_threads=False)
        table.validate(full=True)
        unpacked += sum(_unpacked(chunk) for column in table.columns for chunk in column.chunks)
        bounds.check(rows, 0, unpacked)
        tables.append(table)
    if not tables:
        tables.append(file.schema_arrow.empty_table())
    columns_of = {}
    for name in file.schema_arrow.names:
        columns_of[name] = [value for table in tables for value in table.column(name).to_pylist()]
    return columns_of


def _unpacked(array: pyarrow.Array) -> int:
    """Bytes of an array's values, each text counted as often as it stands there."""
    import pyarrow
    from pyarrow import compute

    if pyarrow.types.is_list(array.type) or pyarrow.types.is_large_list(array.type):
        return array.nbytes + _unpacked(array.flatten())
    if pyarrow.types.is_dictionary(array.type):
        lengths = compute.binary_length(array.dictionary).take(array.indices)
        return compute.sum(lengths.cast(pyarrow.int64())).as_py() or 0
    return array.nbytes


def _check_types(schema: pyarrow.Schema) -> None:
    """Raise ValueError for a type that no table written here has; some of them unpack to any size."""
    from pyarrow import types

    def plain(kind: pyarrow.DataType) -> bool:
        return types.is_string(kind) or types.is_large_string(kind)

    def item(kind: pyarrow.DataType) -> bool:
        return plain(kind) or (types.is_dictionary(kind) and plain(kind.value_type))

    for field in schema:
        kind, lists = field.type, types.is_list(field.type) or types.is_large_list(field.type)
        numbers = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_null(kind)
        dictionary = types.is_dictionary(kind) and item(kind)
        if not (numbers or plain(kind) or dictionary or (lists and item(kind.value_type))):
            raise ValueError(f"column {field.name[:40]!r} is of type {str(kind)[:60]}")


# What a record batch says of itself, read from its FlatBuffers message: nothing is unpacked for it.


def _batch_told(message: bytes, body: Any) -> tuple[int, int, int]:
    """(rows, values of all columns, bytes when unpacked) of a record batch."""
    try:
        root = _follow(message, 0)
        header = _field(message, root, 2)
        if message[_field(message, root, 1)] != RECORD_BATCH:
            raise ValueError("it holds a message that is no record batch")
        batch = _follow(message, header)
        rows = struct.unpack_from("<q", message, _field(message, batch, 0))[0] if _has(message, batch, 0) else 0
        nodes, buffers = _structs(message, batch, 1), _structs(message, batch, 2)
        packed = _has(message, batch, 3)
        counts = [rows, *(length for length, _ in nodes), *(number for each in buffers for number in each)]
        if min(counts) < 0:
            raise ValueError("it holds a record batch with a negative length")
        unpacked = 0
        for offset, length in buffers:
            unpacked += length
            if packed and length >= 8:
                unpacked += max(0, struct.unpack_from("<q", body, offset)[0])
        return rows, sum(length for length, _ in nodes), unpacked
    except (struct.error, IndexError) as error:
        raise ValueError("it holds a damaged record batch") from error


def _follow(data: bytes, place: int) -> int:
    return place + struct.unpack_from("<I", data, place)[0]


def _slot(data: bytes, table: int, index: int) -> int:
    """Where a table's field lies from its start, 0 if it has none."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if vtable < 0:
        raise IndexError
    size = struct.unpack_from("<H", data, vtable)[0]
    return struct.unpack_from("<H", data, vtable + 4 + 2 * index)[0] if 4 + 2 * index < size else 0


def _has(data: bytes, table: int, index: int) -> bool:
    return _slot(data, table, index) != 0


def _field(data: bytes, table: int, index: int) -> int:
    slot = _slot(data, table, index)
    if not slot:
        raise IndexError
    return table + slot


def _structs(data: bytes, table: int, index: int) -> Sequence[tuple[int, int]]:
    """A vector of pairs of 64-bit numbers."""
    if not _has(data, table, index):
        return ()
    start = _follow(data, _field(data, table, index))
    count = struct.unpack_from("<I", data, start)[0]
    if start + 4 + 16 * count > len(data):
        raise IndexError
    return list(struct.iter_unpack("<qq", data[start + 4 : start + 4 + 16 * count]))
