// Keys and sliders: what a page of Gradio does not do by itself. Knows no masks.
(() => {
  const find = (selector) => document.querySelector(selector);

  // Ctrl+Enter runs, Escape stops, from anywhere. What was pasted just before becomes rows first, see rows.js.
  function run() {
    if ('pasting' in document.documentElement.dataset) setTimeout(run, 20);
    else find('#run')?.click();
  }
  document.addEventListener('keydown', (event) => {
    const runs = event.key === 'Enter' && (event.ctrlKey || event.metaKey);
    if (!runs && (event.key !== 'Escape' || find('ul[role=listbox], dialog[open]'))) return;
    event.preventDefault();
    event.stopPropagation();
    if (runs) run();
    else find('#stop')?.click();
  }, true);

  // A finger scrolls the page over pictures too; Plotly would take it for a drag that enlarges them. A tap is still a click.
  document.addEventListener('touchstart', (event) => {
    if (event.target.closest?.('.js-plotly-plot')) event.stopPropagation();
  }, true);

  // A weight moved by keys is let go of a little after the last key: then the answer is decoded again, as after a drag.
  let letGo = 0;
  document.addEventListener('keyup', (event) => {
    if (!event.target.matches?.('.weight input[type=range]') || !/^(Arrow|Home|End|Page)/.test(event.key)) return;
    clearTimeout(letGo);
    letGo = setTimeout(() => event.target.dispatchEvent(new PointerEvent('pointerup', { bubbles: true })), 300);
  });

  // What a slider cannot hold is not told to the program while it is typed: "0" on the way to "0.9", or nothing. Once the
  // field is left, or Enter is pressed, it holds the nearest number that fits, the last one where it is empty.
  const rangeOf = (field) => field.matches?.('input[type=number]') && field.closest('.block')?.querySelector('input[type=range]');
  function nearest({ value, min, max, step }, last) {
    const near = value === '' ? last : Math.min(Math.max(Number(value), Number(min)), Number(max));
    return Number.isInteger(Number(step)) ? Math.round(near) : Number(near);
  }
  const fits = (field) => field.value !== '' && Number(field.value) === nearest(field);
  function settle(field) {
    if (!rangeOf(field) || fits(field)) return;
    field.value = nearest(field, rangeOf(field).value);
    field.dispatchEvent(new Event('input', { bubbles: true }));
  }
  document.addEventListener('input', (event) => {
    if (rangeOf(event.target) && !fits(event.target)) event.stopImmediatePropagation();
  }, true);
  document.addEventListener('blur', (event) => settle(event.target), true);
  document.addEventListener('keydown', (event) => { if (event.key === 'Enter') settle(event.target); }, true);

  // Once the page is there: the keys' names, what the program warms up.
  async function warm() {
    const line = find('#warming p');
    if (!line) return;
    const told = await fetch('./healthz').then((answer) => answer.json(), () => ({ warming: line.textContent }));
    if (!told.warming) return find('#warming').remove();
    line.textContent = told.warming;
    setTimeout(warm, 1000);
  }
  function begin() {
    if (!find('#run') || !find('#stop')) return setTimeout(begin, 50);
    for (const [name, keys, said] of [['run', 'Control+Enter', 'Ctrl+Enter'], ['stop', 'Escape', 'Escape']]) {
      find(`#${name}`).setAttribute('aria-keyshortcuts', keys);
      find(`#${name}`).title = said;
    }
    warm();
  }
  begin();
})();
