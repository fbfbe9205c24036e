"""Bytes of files on the Hugging Face Hub, or one line that says why not. Knows no data sets and no models."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .config import InputError

SCHEME = "hf://datasets/"
CONVERTED = "refs/convert/parquet"  # where the Hub keeps a Parquet copy of a set in another format
T = TypeVar("T")


def read_hub_file(path: str) -> bytes:
    """Bytes of `hf://datasets/OWNER/NAME/FILE` (`NAME@REVISION` for another revision than main)."""
    if not path.startswith(SCHEME) or len(path.removeprefix(SCHEME).split("/")) < 3:
        raise InputError(f"cannot read {path}: a path on the Hub is {SCHEME}OWNER/NAME/FILE")
    return _asked(path, lambda hub: hub.read_bytes(path.removeprefix("hf://")))


def find_hub_parquet(name: str, split: str) -> list[str]:
    """Paths of the Parquet files of a data set's split, in order; the Hub's own conversion if it holds none."""
    for revision in ("", f"@{CONVERTED}"):
        root = f"datasets/{name}{revision}"
        found = _asked(f"hf://{root}", lambda hub, root=root: hub.glob(f"{root}/**/*.parquet"))
        inside = {path: path.split(name, 1)[-1] for path in sorted(found)}
        paths = [path for path, rest in inside.items() if any(f"/{split}{end}" in rest for end in "-/.")]
        if paths:
            return [f"hf://{path}" for path in paths]
    raise InputError(f"cannot read {SCHEME}{name}: it holds no Parquet files of the split {split!r}")


def _asked(path: str, question: Callable[..., T]) -> T:
    try:
        from huggingface_hub import HfFileSystem
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise InputError(
            f"cannot read {path}: install huggingface_hub (pip install huggingface_hub), or use a local file"
        ) from error
    # The bases of the Hub's error are those of the HTTP library it was built with, whichever that is.
    try:
        return question(HfFileSystem())
    except FileNotFoundError as error:
        raise InputError(f"cannot read {path}: there is no such file or data set on the Hub") from error
    except (*HfHubHTTPError.__bases__, OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"cannot read {path} from the Hugging Face Hub ({why}); a local file needs no network") from (
            error
        )
