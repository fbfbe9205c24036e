"""How the page looks: fonts, colours, style of segments. Knows no gradio."""

from __future__ import annotations

from .cells import CHANGES, segment_colour
from .ui_form import ROWS

NAMES = ("prefix", *(f"P{i}" for i in range(1, ROWS + 2)), "suffix", "answer")
COLOURS = {name: segment_colour(name, "paraphrase" if name.startswith("P") else name) for name in NAMES}
COLOURS |= CHANGES
CHIPS = "".join(f".is-{name} {{ --chip: {colour}; }}\n" for name, colour in COLOURS.items())
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
THEME = {
    "body_background_fill": "#F6F7F9",
    "body_background_fill_dark": "#0E1218",
    "body_text_color": "#1B2430",
    "body_text_color_dark": "#E4E8EE",
    "body_text_color_subdued": "#566172",
    "body_text_color_subdued_dark": "#9AA5B4",
    "block_background_fill": "#FFFFFF",
    "block_background_fill_dark": "#161B23",
    "block_border_color": "#DDE2E8",
    "block_border_color_dark": "#2A323D",
    "block_label_text_color": "#566172",
    "block_label_text_color_dark": "#9AA5B4",
    "input_background_fill": "#FFFFFF",
    "input_background_fill_dark": "#10151C",
    "input_border_color": "#C9D0D9",
    "input_border_color_dark": "#39434F",
    "input_border_width": "1px",
    "button_primary_background_fill": "#0067A3",
    "button_primary_background_fill_hover": "#00578A",
    "button_primary_background_fill_dark": "#0B74B5",
    "button_primary_background_fill_hover_dark": "#0A67A1",
    "button_primary_text_color": "#FFFFFF",
    "button_secondary_background_fill": "#E9EDF1",
    "button_secondary_background_fill_hover": "#DCE2E8",
    "button_secondary_background_fill_dark": "#252D38",
    "button_secondary_background_fill_hover_dark": "#303A47",
    "slider_color": "#0067A3",
    "slider_color_dark": "#3C9AD6",
}
