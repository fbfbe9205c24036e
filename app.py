"""Start the page: flags, load, build, launch. Also the entry point of a Space."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flexdemo.errors import InputError
from flexdemo.serve.host import check_requirements, import_gradio, own_folder, resolve_address

# Read once, when torch is imported. Threads of GNU OpenMP that wait spin by default: with another program on the same
# cores, a browser for one, a first token took 9.7 s in place of 0.2 s.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

ROOT = Path(__file__).resolve().parent
ASSETS = ROOT / "assets"


def make_parser() -> argparse.ArgumentParser:
    from flexdemo.cli.main import OneLineParser, add_hardware
    from flexdemo.serve.profiles import PROFILES

    parser = OneLineParser(prog="python app.py", description="Serve the flexdemo page on this machine.")
    parser.add_argument("--host", help="address to listen on (default: GRADIO_SERVER_NAME, else 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default: GRADIO_SERVER_PORT, else 7860)")
    models = parser.add_mutually_exclusive_group()
    models.add_argument(
        "--model", metavar="PATH_OR_ID", help="local folder or Hub id (default: FLEXDEMO_MODEL, else the bundled model)"
    )
    models.add_argument(
        "--models",
        metavar="NAME=PATH_OR_ID,...",
        help="several to choose from on the page, all loaded at the start; the first is the default, and "
        "NAME=bundled the bundled one (default: FLEXDEMO_MODELS)",
    )
    where = "; ".join(f"{name}: {profile.summary}" for name, profile in PROFILES.items())
    hosted = "space" if "SPACE_ID" in os.environ else "local"
    parser.add_argument("--profile", choices=PROFILES, default=hosted, help=f"whose limits hold ({where})")
    told = "proxies in front that tell the visitor's address, up to 9"
    parser.add_argument("--proxies", type=int, choices=range(10), metavar="N", help=told)
    add_hardware(parser)
    parser.add_argument("--mcp", action="store_true", help="also offer the endpoints as MCP tools (gradio[mcp])")
    parser.add_argument("--root-path", metavar="/PATH", help="path behind a proxy (default: GRADIO_ROOT_PATH)")
    parser.add_argument(
        "--auth",
        metavar="USER:PASSWORD",
        help="ask visitors for this account; @FILE reads it from a file's first line (default: FLEXDEMO_AUTH)",
    )
    parser.add_argument("--log-text", action="store_true", help="write visitors' questions into the log as well")
    return parser


def assets(kind: str) -> list[Path]:
    """The files of examples or recordings: KIND.json of the bundled model, then KIND-NAME.json of others."""
    return sorted(ASSETS.glob(f"{kind}*.json"), key=lambda path: path.stem)


def start(args: argparse.Namespace, host: str, port: int) -> Any:
    """Load, build and launch: what /healthz tells of the page, which is its `demo`. InputError if that cannot be."""
    from flexdemo.serve import zerogpu

    if args.mcp and importlib.util.find_spec("mcp") is None:
        raise InputError("--mcp needs the package mcp: install it with pip install 'gradio[mcp]'")
    gpu = zerogpu.find_gpu()  # before torch and gradio: its package changes both
    import_gradio()
    from flexdemo.answers.recording import load_recorded
    from flexdemo.engine.loading import Models, load_model, offered, parse_models, weights_gigabytes, without_paths
    from flexdemo.engine.model import moved
    from flexdemo.engine.tuning import suit_threads
    from flexdemo.page.page import build_demo, launch_options
    from flexdemo.page.state import START_METHODS
    from flexdemo.serve import internals
    from flexdemo.serve.guard import Guard
    from flexdemo.serve.health import ServerLog, State, read_account, routes
    from flexdemo.serve.log import Ledger
    from flexdemo.serve.profiles import PROFILES
    from flexdemo.serve.warmup import WarmUp

    account = read_account(args.auth or os.environ.get("FLEXDEMO_AUTH"))
    if args.mcp and account:
        raise InputError("--mcp is not for a page with an account, which MCP's clients cannot tell: leave one out")
    options = zerogpu.load_options(gpu, args.device, args.dtype, args.backend, compiled=args.compile)

    def load(where: str | None) -> Any:
        lm = load_model(where, **options)
        return moved(lm, zerogpu.DEVICE) if gpu.forks else lm

    several = args.models or (not args.model and os.environ.get("FLEXDEMO_MODELS"))
    single = args.model or os.environ.get("FLEXDEMO_MODEL") or None
    named = parse_models(several) if several else {}
    models = Models(tuple((name, load(where)) for name, where in named.items())) if named else offered(load(single))
    for name, lm in models.named if several else ():
        size = f"{weights_gigabytes(lm):.2f} GB of weights"
        print(f"model {name}: {lm.name}, {size} in {lm.dtype} on {lm.device}", file=sys.stderr)
    models = without_paths(models)
    lm, every = models.default, [each for _, each in models.named]
    suit_threads(max(every, key=weights_gigabytes))

    ledger, closing = Ledger(log_text=args.log_text), threading.Event()
    examples = [each for path in assets("examples") for each in json.loads(path.read_text(encoding="utf-8"))]
    question, paraphrases = examples[0]["question"], examples[0]["paraphrases"]
    warm_up = WarmUp(
        [] if gpu.forks else every, question, paraphrases, START_METHODS,
        log=lambda text: ledger.tell("warm-up", outcome=text),
    )  # fmt: skip
    profile = PROFILES[args.profile]
    profile = profile if args.proxies is None else replace(profile, proxies=args.proxies)
    path = (args.root_path or "").strip("/")  # of a proxy, or its whole address
    notice = zerogpu.NOTICE.format(backend=lm.backend) if gpu.forks else ""
    recordings = [each for path in assets("recorded") for each in load_recorded(path)]
    shown = {"examples": examples, "recordings": recordings, "notice": notice, "warming": warm_up.note}
    demo = build_demo(models, profile=profile, gpu=gpu, **shown)
    name = ", ".join(models.choices) or lm.name
    state = State(demo, name, lm.backend, str(lm.device), ledger, closing, lambda: warm_up.note)
    Guard(ledger, closing).protect(demo)
    internals.queue(demo, profile.queue)
    try:
        demo.launch(
            server_name=host,
            server_port=port,
            root_path=f"/{path}" if path and not path.startswith("http") else path or None,
            auth=account,
            mcp_server=args.mcp,
            prevent_thread_lock=True,
            quiet=True,
            **launch_options(profile, routes=routes(state)),
        )
    except OSError as error:  # another program took it while the model was loaded
        raise InputError(f"cannot listen on {host}:{port} any more: choose another port with --port") from error
    internals.tell_tools_in_json(demo)
    ServerLog(ledger).attach()
    print(f"flexdemo runs on {demo.local_url}", flush=True)
    ledger.tell("started")
    warm_up.start()
    return state


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted; 2 after one line on standard error when it cannot start."""
    try:
        check_requirements(ROOT / "requirements.txt")
        args = make_parser().parse_args(argv)
        host, port = resolve_address(args.host, args.port)
        own_folder()
        state = start(args, host, port)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # What start made stays: no collection goes through it while a visitor waits, or ends a loop of the server twice.
    gc.freeze()
    from flexdemo.serve.health import serve_until_told

    serve_until_told(state)
    return 0


if __name__ == "__main__":
    # As the first process of a container it would not hear the signal otherwise, until the page is up.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    sys.exit(main())
