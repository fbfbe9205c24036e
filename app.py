"""Start the page: parse flags, load the model, launch. Also the entry point of a hosted copy."""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib.util
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from flexdemo.errors import InputError
from flexdemo.gone import imports, kept
from flexdemo.gone.environment import check_requirements
from flexdemo.gone.stages import Stages
from flexdemo.gone.waiting import Waiting
from flexdemo.serve.profiles import PROFILES

ROOT = Path(__file__).resolve().parent
ASSETS = ROOT / "assets"
EXAMPLES, RECORDED = ASSETS / "examples.json", ASSETS / "recorded.json"


def make_parser() -> argparse.ArgumentParser:
    from flexdemo.cli.main import OneLineParser

    parser = OneLineParser(prog="python app.py", description="Serve the flexdemo page on this machine.")
    parser.add_argument("--host", help="address to listen on (default: GRADIO_SERVER_NAME, else 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default: GRADIO_SERVER_PORT, else 7860)")
    parser.add_argument(
        "--model", metavar="PATH_OR_ID", help="local folder or Hub id (default: FLEXDEMO_MODEL, else the bundled model)"
    )
    parser.add_argument(
        "--models",
        metavar="NAME=PATH_OR_ID,...",
        help="several to choose from on the page, all loaded at the start; the first is the default, and "
        "NAME=bundled the bundled one (default: FLEXDEMO_MODELS)",
    )
    where = "; ".join(f"{name}: {profile.summary}" for name, profile in PROFILES.items())
    hosted = "space" if "SPACE_ID" in os.environ else "local"
    parser.add_argument("--profile", choices=PROFILES, default=hosted, help=f"whose limits hold ({where})")
    parser.add_argument("--proxies", type=int, metavar="N", help="proxies in front that tell the visitor's address")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16 (default: auto)")
    parser.add_argument("--backend", default="auto", help="auto, flex, flex-eager or sdpa (default: auto)")
    parser.add_argument("--compile", action="store_true", help="compile the whole forward pass: fastest (one GPU)")
    parser.add_argument("--mcp", action="store_true", help="also offer the endpoints as MCP tools (gradio[mcp])")
    parser.add_argument("--root-path", metavar="/PATH", help="path behind a proxy (default: GRADIO_ROOT_PATH)")
    parser.add_argument(
        "--auth",
        metavar="USER:PASSWORD",
        help="ask visitors for this account; @FILE reads it from a file's first line (default: FLEXDEMO_AUTH)",
    )
    parser.add_argument("--log-text", action="store_true", help="write visitors' questions into the log as well")
    parser.add_argument(
        "--grace", type=_seconds, default=5.0, metavar="S", help="seconds for running answers at a stop (default: 5)"
    )
    return parser


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 3600")
    return number


def resolve_root_path(given: str | None) -> str | None:
    """The path under which a proxy serves the page; None leaves it to GRADIO_ROOT_PATH. InputError if unusable."""
    if given is None or given.startswith(("http://", "https://")):
        return given
    if not given.startswith("/") or any(character in given for character in "?# "):
        raise InputError(f"the root path must begin with / and be a plain path such as /flexdemo, not {given!r}")
    return given.rstrip("/")


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


def wait_at(host: str, port: int, page: kept.Kept | None = None) -> Waiting:
    """Answer the port from now on, so that who opens the page early sees it as it was kept, or that it starts."""
    with listening(host, port):
        return Waiting(host, port, **({} if page is None else {"known": page.answer}))


def place_of_page(args: argparse.Namespace) -> Path | None:
    """Where the page of this start is kept; None for one behind an account, a proxy's path or on a lent GPU."""
    account, path = args.auth or os.environ.get("FLEXDEMO_AUTH"), args.root_path or os.environ.get("GRADIO_ROOT_PATH")
    if account or path or args.mcp or os.environ.get("SPACES_ZERO_GPU"):
        return None
    told = {name: value for name, value in vars(args).items() if name not in ("host", "port", "grace", "log_text")}
    told["default_models"] = [os.environ.get(name) for name in ("FLEXDEMO_MODEL", "FLEXDEMO_MODELS")]
    versions = {name: version(name) for name in ("gradio", "plotly", "transformers", "torch")}
    return kept.place(ROOT, told | versions)


def own_folder() -> None:
    """Visitors' files go to a folder that nobody else on this machine can read, and that is gone when the program is.

    GRADIO_TEMP_DIR names another one, which stays. InputError if there is none that can be written.
    """
    named = os.environ.get("GRADIO_TEMP_DIR")
    try:
        if named:
            os.makedirs(named, exist_ok=True)
            tempfile.TemporaryFile(dir=named).close()
            return
        folder = os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="flexdemo-")
    except OSError as error:
        where = f"in {named} " if named else ""
        raise InputError(
            f"no files can be written {where}({error.strerror or error}): name another folder, with GRADIO_TEMP_DIR"
        ) from error
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


class Page(NamedTuple):
    """The page that runs: what is launched, what it tells of itself, and how requests are turned away."""

    demo: Any
    state: Any
    close_gate: Any


def start(
    args: argparse.Namespace, host: str, port: int, waiting: Waiting, keeper: kept.Keeper, stages: Stages
) -> Page:
    """Load the model, build the page and launch it. InputError if there is no such model."""
    from flexdemo.serve import zerogpu

    stages.end("program")
    gpu = zerogpu.find_gpu()  # before torch and gradio: its package changes both
    with imports.light_gradio(mcp=args.mcp or "GRADIO_MCP_SERVER" in os.environ):
        import gradio  # noqa: F401
    stages.end("import gradio")
    imports.import_transformers()
    stages.end("import transformers")
    import torch  # noqa: F401

    stages.end("import torch")
    from flexdemo.engine.loading import load_model, weights_gigabytes
    from flexdemo.engine.model import suit_threads
    from flexdemo.serve.health import ServerLog, State, read_account, routes
    from flexdemo.serve.log import Ledger

    account = read_account(args.auth or os.environ.get("FLEXDEMO_AUTH"))
    options = zerogpu.load_options(gpu, args.device, args.dtype, args.backend, compiled=args.compile)

    def load(where: str | None) -> Any:
        lm = load_model(where, **options)
        return zerogpu.place(lm) if gpu.forks else lm

    models = load_models(args, load)
    lm = models.default
    suit_threads(max((each for _, each in models.named), key=weights_gigabytes))
    stages.end("load model")
    from flexdemo.page.page import FALLBACK_EXAMPLE, START_METHODS, build_demo, launch_options
    from flexdemo.serve.guard import Gate, Guard
    from flexdemo.serve.warmup import WarmUp

    ledger, gate = Ledger(log_text=args.log_text), Gate()
    state = State(
        ", ".join(models.choices) or lm.name, lm.backend, str(lm.device), ledger, lambda: gate.is_closing, account
    )
    examples = json.loads(EXAMPLES.read_text(encoding="utf-8")) if EXAMPLES.is_file() else []
    notice = zerogpu.NOTICE.format(backend=lm.backend) if gpu.forks else ""
    profile = PROFILES[args.profile]
    if args.proxies is not None:
        profile = replace(profile, proxies=args.proxies)
    first = examples[0] if examples else FALLBACK_EXAMPLE
    warm_up = WarmUp(
        [] if gpu.forks else [each for _, each in models.named],
        first["question"],
        first["paraphrases"],
        START_METHODS,
        log=lambda text: ledger.tell("warm-up", outcome=text),
    )
    state.warming = lambda: warm_up.note
    page = {"profile": profile, "examples": examples, "recordings": read_recordings(), "gpu": gpu, "notice": notice}
    page["warming"] = warm_up.note
    demo = build_demo(models, **page)
    Guard(ledger, gate).protect(demo)
    demo.queue(max_size=profile.queue)
    keeper.name(demo)
    stages.end("build page")
    waiting.close()
    demo.launch(
        server_name=host,
        server_port=port,
        root_path=resolve_root_path(args.root_path),
        auth=account,
        mcp_server=args.mcp,
        prevent_thread_lock=True,
        ssl_verify=False,  # of this address, which has no certificate: reading those of all the world takes 0.05 s
        **launch_options(profile, routes=routes(state)),
    )
    stages.end("launch")
    ServerLog(ledger).attach()
    state.demo, state.page = demo, keeper.keep(demo.local_url)
    waiting.pass_on(pages=not keeper.is_stale)
    stages.end("keep page")
    ledger.tell("started", seconds=stages.told())
    warm_up.start()
    return Page(demo, state, gate.close)


def load_models(args: argparse.Namespace, load: Callable[[str | None], Any]) -> Any:
    """The models that flags or the environment name, loaded by `load`; one, or several and what each takes is told.

    InputError for names that cannot be, or a model that cannot be loaded.
    """
    from flexdemo.engine.loading import Models, load_all, offered, parse_models, weights_gigabytes

    several = args.models or (not args.model and os.environ.get("FLEXDEMO_MODELS")) or None
    if several is None:
        return offered(load(args.model or os.environ.get("FLEXDEMO_MODEL") or None))
    models: Models = load_all(parse_models(several), load)
    for name, lm in models.named:
        size = f"{weights_gigabytes(lm):.2f} GB of weights"
        print(f"model {name}: {lm.name}, {size} in {lm.dtype} on {lm.device}", file=sys.stderr)
    return models


def read_recordings() -> list[Any]:
    """The recorded examples; none, and a line that says why, if they cannot be read."""
    from flexdemo.answers.recording import load_recorded

    try:
        return load_recorded(RECORDED) if RECORDED.is_file() else []
    except InputError as error:
        print(f"no recorded examples: {error}", file=sys.stderr)
        return []


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted; 2 after one line on standard error when it cannot start."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    # Threads of torch that wait by spinning take the core from the browser, and from each other: on two busy cores a
    # load of the bundled model took up to 3.1 s with it and 0.2 s without. Read once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    stages = Stages()
    gc.disable()  # until the page is up: imports make a million objects, and they stay
    try:
        check_requirements(ROOT / "requirements.txt")
        args = make_parser().parse_args(argv)
        host, port = resolve_address(args.host, args.port)
        resolve_root_path(args.root_path)
        if args.mcp:
            check_mcp()
        if args.model and args.models:
            raise InputError("give --model for one model or --models for several, not both")
        if args.proxies is not None and args.proxies < 0:
            raise InputError(f"--proxies must be 0 or more, not {args.proxies}")
        own_folder()
        keeper = kept.Keeper(place_of_page(args))
        with closing(wait_at(host, port, keeper.page)) as waiting:
            page = start(args, host, port, waiting=waiting, keeper=keeper, stages=stages)
        gc.freeze()  # or the first collection, while the first visitor waits, would go through them all
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        gc.enable()
    from flexdemo.serve.health import serve_until_told

    serve_until_told(page.demo, page.state, page.close_gate, grace=args.grace)
    return 0


if __name__ == "__main__":
    # As the first process of a container it would not hear the signal otherwise, until the page is up.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    sys.exit(main())
