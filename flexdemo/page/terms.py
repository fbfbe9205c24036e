"""Terms of the page in two sentences each, with where to read on. Knows no gradio and no models."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from ..figures.cells import CHANGES, segment_colour
from ..serve.profiles import PROFILES

# What each means, and one page or paper about it, which the page links to and never fetches.
TERMS: Mapping[str, tuple[str, str, str]] = {
    "Segment mask": (
        "All wordings lie in one sequence, and while it is read the mask lets a wording see the prefix and itself,"
        " never another wording. The suffix and the answer see them all, so that is where they are fused.",
        "FlexAttention, the PyTorch blog",
        "https://pytorch.org/blog/flexattention/",
    ),
    "Aligned positions": (
        "Every wording starts at the same position, right after the prefix, so the model reads each as if it were "
        "alone. With sequential positions later wordings would be further from the prefix than any of them alone.",
        "Parallel Context Windows (Ratner et al., 2022)",
        "https://arxiv.org/abs/2212.10947",
    ),
    "Weights": (
        "The logarithm of a wording's share is added to every attention score that suffix and answer give its "
        "tokens; 0 hides it. Shares sum to 1, so five copies of one wording count as that wording once.",
        "score_mod in the FlexAttention reference",
        "https://docs.pytorch.org/docs/stable/nn.attention.flex_attention.html",
    ),
    "Attention mass": (
        "The share of an answer token's attention that falls on all tokens of a segment together; the shares of a "
        "token sum to 1. It describes where the model looked and proves no influence.",
        "Attention is not Explanation (Jain and Wallace, 2019)",
        "https://arxiv.org/abs/1902.10186",
    ),
    "Leave-one-out": (
        "The same answer is scored again with one wording hidden, and its loss of log-probability is that "
        "wording's effect. Unlike attention mass this is an intervention: something was taken away and the model "
        "was asked again.",
        "Understanding Neural Networks through Representation Erasure (Li et al., 2016)",
        "https://arxiv.org/abs/1612.08220",
    ),
    "Hidden from a head": (
        "One head of one layer may not see a wording while it reads the answer; all other heads and layers go on as "
        "before. What the answer's log-probability loses is that head's effect, of this one change alone: other heads "
        "may make up for it, so such effects need not add up.",
        "Are Sixteen Heads Really Better than One? (Michel et al., 2019)",
        "https://arxiv.org/abs/1905.10650",
    ),
    "Logit lens": (
        "The model's last step, its final norm and output head, is applied to what an earlier layer made, as if it "
        "were the last. It shows what the model would say if it stopped there; early layers were not trained to be "
        "read like this.",
        "interpreting GPT: the logit lens (nostalgebraist, 2020)",
        "https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens",
    ),
    "Cosine of hidden states": (
        "A hidden state is the list of numbers that a layer makes of a token; the cosine of two is 1 where they point "
        "the same way. States of one model share a large part, so cosines near 1 are usual and differences are small.",
        "How Contextual are Contextualized Word Representations? (Ethayarajh, 2019)",
        "https://arxiv.org/abs/1909.00512",
    ),
    "APE (attention T and S)": (
        "Texts that were read apart draw another amount of attention than one text would; APE divides their scores"
        " by a temperature T and scales their sum with S to make up for it. T = S = 1 is plain attention.",
        "APE: Adaptive Parallel Encoding (Yang et al., 2025)",
        "https://arxiv.org/abs/2502.05431",
    ),
    "Confidence": (
        "Several answers are sampled from each wording alone, and a wording weighs as much as the share of them "
        "that agrees with its greedy answer. A wording that the model is unsure about then counts for less.",
        "Self-Consistency (Wang et al., 2022)",
        "https://arxiv.org/abs/2203.11171",
    ),
}


def terms_html(*names: str) -> str:
    """A question for each term, which opens on its meaning and a link."""
    made = []
    for name in names:
        meaning, source, url = map(escape, TERMS[name])
        said = f'{meaning} Read on: <a href="{url}" target="_blank" rel="noopener noreferrer">{source}</a>'
        made.append(f'<details class="term"><summary>{escape(name)}</summary><p>{said}</p></details>')
    return "".join(made)


MOST = max(profile.limits.paraphrases for profile in PROFILES.values())
NAMES = ("prefix", *(f"{kind}{i}" for kind in "PS" for i in range(1, MOST + 2)), "suffix", "answer")
ROLES = {"P": "paraphrase", "S": "separator"}  # by the first letter of what is numbered; else the role is the name
COLOURS = {name: segment_colour(name, ROLES.get(name[0], name)) for name in NAMES}
COLOURS |= CHANGES
CHIPS = "".join(f".is-{name} {{ --chip: {colour}; }}\n" for name, colour in COLOURS.items())
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
# Light, and dark.
_LOOK = {
    "body_background_fill": ("#F6F7F9", "#0E1218"),
    "body_text_color": ("#1B2430", "#E4E8EE"),
    "body_text_color_subdued": ("#566172", "#9AA5B4"),
    "block_background_fill": ("#FFFFFF", "#161B23"),
    "block_border_color": ("#DDE2E8", "#2A323D"),
    "block_label_text_color": ("#566172", "#9AA5B4"),
    "input_background_fill": ("#FFFFFF", "#10151C"),
    "input_border_color": ("#C9D0D9", "#39434F"),
    "input_border_width": ("1px", "1px"),
    "button_primary_background_fill": ("#0067A3", "#0B74B5"),
    "button_primary_background_fill_hover": ("#00578A", "#0A67A1"),
    "button_secondary_background_fill": ("#E9EDF1", "#252D38"),
    "button_secondary_background_fill_hover": ("#DCE2E8", "#303A47"),
    "slider_color": ("#0067A3", "#3C9AD6"),
}
THEME = {f"{name}{mode}": each for name, pair in _LOOK.items() for mode, each in zip(("", "_dark"), pair, strict=True)}
