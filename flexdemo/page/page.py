"""The page: its head, its two columns, its tabs. What it shows is made in the modules that it builds from."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from ..answers.recording import Recorded
from ..engine.loading import Models, offered
from ..engine.model import LanguageModel
from ..serve.door import Door
from ..serve.profiles import DEFAULT, Profile
from ..serve.zerogpu import LOCAL, Gpu
from . import examples as shown_examples
from . import results, rows, tools
from .endpoints import add_endpoints
from .events import Events, model_html
from .form import build_settings
from .sides import build_ladder, build_sides, build_tokens
from .state import PageState
from .tabs import build_tabs
from .terms import CHIPS, FONTS, MONO, THEME
from .widgets import ASSETS, Changes, Page, chooser, script

UPLOAD_MARGIN = 5_000_000  # above the limit of a file, so that a file a little too large is told of in words
KEPT = (3600, 86_400)  # every hour, files of visitors that are older than a day are deleted


def launch_options(profile: Profile = DEFAULT, *, routes: Sequence[Any] = ()) -> dict[str, Any]:
    """Arguments of `Blocks.launch` that make the page look and behave as it should: theme, style, keys, its door.

    `routes` are those that the app has beside the page's.
    """
    sizes = {"text_size": "sm", "spacing_size": "sm", "radius_size": "sm"}
    hues = {"primary_hue": gr.themes.colors.blue, "neutral_hue": gr.themes.colors.slate}
    # Plain names of fonts: gradio would fetch a GoogleFont from outside.
    theme = gr.themes.Base(font=list(FONTS), font_mono=list(MONO), **sizes, **hues).set(**THEME)
    return {
        "theme": theme,
        "css": CHIPS,
        "css_paths": [ASSETS / "style.css"],
        "head": f"<script defer>{script('page.js')}{script('views.js')}</script>",
        "footer_links": ["api", "settings"],
        "max_file_size": profile.limits.file_bytes + UPLOAD_MARGIN,
        "state_session_capacity": profile.sessions,
        "enable_monitoring": False,
        "app_kwargs": {"openapi_url": None, "middleware": [Middleware(Door, profile=profile)], "routes": list(routes)},
        "ssr_mode": False,
        "show_error": profile.waiting is None,  # of errors that nobody expects: their texts may hold paths
    }


def build_demo(
    lm: LanguageModel | Models,
    *,
    profile: Profile = DEFAULT,
    examples: Sequence[dict] = (),
    recordings: Sequence[Recorded] = (),
    gpu: Gpu = LOCAL,
    notice: str = "",
    warming: str = "",
) -> gr.Blocks:
    """The page over a loaded model, or several to choose from; launch it with `launch_options()`.

    An example has `question`, `paraphrases` and, if wanted, `title` and `note`. Where one of `recordings` asked the
    same, its result is shown until the first run; the page opens on an example that its model recorded, if there is
    one. `gpu` is how the work comes to a GPU, and `notice` a line on top that says what is special about the place
    where this runs; `warming` one that stays there for as long as /healthz tells of it.
    """
    models, room = offered(lm), profile.limits.paraphrases
    told = (list(examples) or [shown_examples.FALLBACK], recordings, room, models.default.name)
    examples = shown_examples.attributed(*told)
    start = shown_examples.state_of(examples[0], room, models.choices[0] if models.choices else "")
    page = Page(models, profile, gpu)
    events = Events(page, examples, recordings)
    opening = events.opening(start, is_example=True)
    with gr.Blocks(title="flexdemo", analytics_enabled=False, fill_width=True, delete_cache=KEPT) as demo:
        page["last"] = gr.State(opening["last"])
        # The clicks on examples with the last one's number; and which click the browser has filled the form in for.
        page["example"], page["filled"] = gr.State((0, None)), gr.Number(0, visible=False, precision=0)
        # Runs that came after a recording of another model, and what the last one says of that.
        page["anew"] = gr.State((0, ""))
        _build_head(page, opening, notice, warming)
        with gr.Row(elem_id="page"):
            with gr.Column(scale=4, min_width=300, elem_id="ask"):
                _build_ask(page, examples, start, opening)
            with gr.Column(scale=11, min_width=300, elem_id="see"):
                build_ladder(page, opening)
                build_sides(page, start, opening)
                page["proof"] = gr.HTML("", elem_id="proof")
                build_tokens(page, opening)
                build_tabs(page)
                if profile.uploads:
                    results.build_opened(page)
        events.wire(demo)
        add_endpoints(page)
    return demo


def _build_head(page: Page, opening: Changes, notice: str, warming: str) -> None:
    models = page.models
    with gr.Row(elem_id="masthead"):
        gr.HTML("<h1>flexdemo</h1><p>One question, several wordings, one pass.</p>", elem_id="title")
        page["model"] = gr.Dropdown(
            [*models.choices] or [("the only one", "")],
            value=models.choices[0] if models.choices else "",
            label="Model", container=False, elem_id="model", visible=bool(models.choices), min_width=120,
        )  # fmt: skip
        page["facts"] = gr.HTML(model_html(models.default), elem_id="facts")
        page["status"] = gr.HTML(opening["status"], elem_id="status")
        page["queue"] = gr.HTML("", elem_id="queue")
        page["copy"] = gr.Button("Copy link", size="sm", elem_id="copy-link", min_width=80, scale=0)
    page["link"] = gr.Textbox(
        visible=False, label="Link to the page as it was when you made it", elem_id="link", lines=1, max_lines=3
    )
    page["link_said"] = gr.HTML("", elem_id="link-said")
    if notice:
        gr.HTML(f"<p>{escape(notice)}</p>", elem_id="notice")
    if warming:
        gr.HTML(f'<p role="status">{escape(warming)}</p>', elem_id="warming")
    page["link_message"] = gr.HTML("", elem_id="link-message", elem_classes="message")


def _build_ask(page: Page, examples: Sequence[dict], start: PageState, opening: Changes) -> None:
    """Left: examples, wordings, Run and Stop, the settings in folded groups."""
    links = shown_examples.try_html(examples, page.models.default.name)
    page["try"] = gr.HTML(links, elem_id="examples", js_on_load=chooser("example"))
    page["note"] = gr.HTML(escape(examples[0].get("note") or ""), elem_id="example-note")
    rows.build_rows(page, start, opening)
    with gr.Row(elem_id="actions"):
        page["run"] = gr.Button("Run", variant="primary", elem_id="run", min_width=90, scale=3)
        page["stop"] = gr.Button("Stop", elem_id="stop", min_width=70)
    page["message"] = gr.HTML("", elem_id="message", elem_classes="message")
    page["budget"] = gr.HTML(opening["budget"], elem_id="budget")
    build_settings(page, start)
    tools.build_tools(page, opening["last"])
    if page.profile.uploads:
        results.build_results(page)
