"""Keys, and figures in words for who cannot see them: scripts and texts. Knows no gradio and runs no model."""

from __future__ import annotations

from html import escape

from .ui_explain import LastRun, chosen_mass, segment_names

FIGURES = {  # element of a figure -> element whose text says what it shows
    "mask-plot": "mask-caption",
    "mass-plot": "mass-note",
    "effect-plot": "effect-note",
    "attention-plot": "attention-note",
}
# Gradio makes a figure's element anew when it is hidden and shown, so the names are given whenever the tabs change.
SCRIPT = """() => {
  document.addEventListener('keydown', (event) => {
    const press = (name) => {
      event.preventDefault();
      event.stopPropagation();
      document.querySelector(name)?.click();
    };
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) press('#run');
    if (event.key === 'Escape' && !document.querySelector('ul[role=listbox], dialog[open]')) press('#stop');
  }, true);
  for (const [name, keys, said] of [['run', 'Control+Enter', 'Ctrl+Enter'], ['stop', 'Escape', 'Escape']]) {
    document.getElementById(name)?.setAttribute('aria-keyshortcuts', keys);
    document.getElementById(name)?.setAttribute('title', said);
  }
  for (const each of document.querySelectorAll('#program .address')) each.textContent = location.origin;
  const figures = FIGURES;
  const name = () => {
    for (const [figure, text] of Object.entries(figures)) {
      const found = document.getElementById(figure);
      if (!found || found.getAttribute('role') === 'figure') continue;
      found.setAttribute('role', 'figure');
      found.setAttribute('aria-labelledby', text);
    }
  };
  name();
  const tabs = document.getElementById('tabs');
  if (tabs) new MutationObserver(name).observe(tabs, {childList: true, subtree: true});
}""".replace("FIGURES", str(FIGURES))


def mass_words(last: LastRun) -> str:
    """The figure of attention mass in words: each segment's mean over the answer's tokens; empty without it."""
    if last.explanation is None:
        return ""
    means = chosen_mass(last, per_token=False).mean(axis=0)
    shares = ", ".join(f"{name} {share:.3f}" for name, share in zip(segment_names(last), means, strict=True))
    return _words(f"Mean over the answer's tokens, all layers and heads: {shares}.")


def effect_words(last: LastRun) -> str:
    """The figure of leave-one-out effects in words; empty without it."""
    if last.explanation is None or not last.explanation.attribution.effects:
        return ""
    told = [(each.hidden, round(each.effect, 3)) for each in last.explanation.attribution.effects]
    effects = ", ".join(f"{hidden} {effect:+.3f}" if effect else f"{hidden} 0.000" for hidden, effect in told)
    return _words(f"Log-probability of the answer lost without a wording: {effects}.")


def _words(text: str) -> str:
    return f'<p class="unseen">{escape(text)}</p>'
