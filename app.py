"""Start the page: parse flags, load the model, launch. Also the entry point of a hosted copy."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import inspect
import json
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from flexdemo.cli import OneLineParser
from flexdemo.config import InputError
from flexdemo.waiting import Waiting

ASSETS = Path(__file__).resolve().parent / "assets"
EXAMPLES, RECORDED = ASSETS / "examples.json", ASSETS / "recorded.json"
PROFILES = ("local",)


def make_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python app.py", description="Serve the flexdemo page on this machine.")
    parser.add_argument("--host", help="address to listen on (default: GRADIO_SERVER_NAME, else 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default: GRADIO_SERVER_PORT, else 7860)")
    parser.add_argument("--model", metavar="PATH_OR_ID", help="local folder or Hub id (default: the bundled model)")
    parser.add_argument("--profile", choices=PROFILES, default="local", help="where it runs; only 'local' so far")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16 (default: auto)")
    parser.add_argument("--backend", default="auto", help="auto, flex, flex-eager or sdpa (default: auto)")
    parser.add_argument("--mcp", action="store_true", help="also offer the endpoints as MCP tools (gradio[mcp])")
    return parser


def check_mcp() -> None:
    """InputError if the package is missing that makes MCP tools of the endpoints."""
    if importlib.util.find_spec("mcp") is None:
        raise InputError("--mcp needs the package mcp: install it with pip install 'gradio[mcp]'")


def resolve_address(host: str | None, port: int | None) -> tuple[str, int]:
    """Host and port from flags, else the environment, else 127.0.0.1:7860; InputError if they cannot be used."""
    named = os.environ.get("GRADIO_SERVER_PORT", "7860") if port is None else str(port)
    if not named.isascii() or not named.isdigit() or not 1 <= int(named) <= 65535:
        raise InputError(f"the port must be a whole number from 1 to 65535, not {named!r}")
    address = host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with listening(address, int(named)):
            probe.bind((address, int(named)))
    return address, int(named)


@contextmanager
def listening(host: str, port: int) -> Iterator[None]:
    """InputError for an address that cannot be listened on in here."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot listen on {host}:{port} ({reason}): choose another with --port or --host") from error


@contextmanager
def without_stubs() -> Iterator[None]:
    """Import gradio in here, and it leaves its components' type stubs (.pyi) alone.

    Otherwise it parses every component's source and stub to bring the stubs up to date, for editors: a third of its
    import. It makes no stub for a class whose file it cannot find.
    """
    getfile = inspect.getfile

    def found(thing: Any) -> str:
        if type(thing).__name__ == "ComponentMeta":
            raise OSError("no stub is wanted")
        return getfile(thing)

    inspect.getfile = found
    try:
        yield
    finally:
        inspect.getfile = getfile


def wait_at(host: str, port: int) -> Waiting:
    """Answer the port from now on; browsers load what every page of gradio needs while the model loads here."""
    found = importlib.util.find_spec("gradio")
    folder = Path(found.origin or "").parent / "templates" / "frontend" if found else Path()
    page = folder / "index.html"
    entry = re.findall(r'src="./assets/([\w.-]+[.]js)"', page.read_text(encoding="utf-8")) if page.is_file() else []
    plots = sorted(each.name for each in (folder / "assets").glob("PlotlyPlot-*.js"))
    with listening(host, port):
        return Waiting(host, port, assets=folder / "assets", scripts=[*entry, *plots])


def start(args: argparse.Namespace, host: str, port: int, waiting: Waiting) -> Any:
    """Load the model, build the page and launch it: the running Blocks. InputError if there is no such model."""
    from flexdemo import load_model
    from flexdemo.threads import suit_threads

    lm = load_model(args.model, device=args.device, dtype=args.dtype, backend=args.backend)
    suit_threads(lm)
    with without_stubs():
        from flexdemo.ui import build_demo, launch_options

    from flexdemo.recording import load_recorded

    try:
        recordings = load_recorded(RECORDED) if RECORDED.is_file() else []
    except InputError as error:
        print(f"no recorded examples: {error}", file=sys.stderr)
        recordings = []

    examples = json.loads(EXAMPLES.read_text(encoding="utf-8")) if EXAMPLES.is_file() else []
    demo = build_demo(lm, examples=examples, recordings=recordings)
    demo.queue(max_size=64)
    waiting.close()
    demo.launch(server_name=host, server_port=port, mcp_server=args.mcp, prevent_thread_lock=True, **launch_options())
    waiting.pass_on()
    return demo


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted; 2 after one line on standard error when it cannot start."""
    args = make_parser().parse_args(argv)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    gc.disable()  # until the page is up: imports make a million objects, and they stay
    try:
        host, port = resolve_address(args.host, args.port)
        if args.mcp:
            check_mcp()
        with closing(wait_at(host, port)) as waiting:
            demo = start(args, host, port, waiting)
        gc.freeze()  # or the first collection, while the first visitor waits, would go through them all
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        gc.enable()
    demo.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
