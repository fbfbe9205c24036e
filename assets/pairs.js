// The grid of pairs: a click, or a key on a cell, tells the program the pair; arrows go from cell to cell. A new grid
// takes the focus along. Gradio calls this with `element` and `trigger`.
const cells = () => [...element.querySelectorAll('button[data-pair]')];
let held = null;
function enter(cell) {
  cells().forEach((each) => { each.tabIndex = each === cell ? 0 : -1; });
  cell.focus();
}
element.addEventListener('click', (event) => {
  held = event.target.closest('button[data-pair]')?.dataset.pair ?? null;
  if (held) trigger('select', { pair: held });
});
document.addEventListener('focusin', (event) => { if (!element.contains(event.target)) held = null; });
element.addEventListener('keydown', (event) => {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  const from = event.target.closest('button[data-pair]')?.dataset;
  if (!step || !from) return;
  event.preventDefault();
  const place = [Number(from.row) + step[0], Number(from.column) + step[1]].join();
  const to = cells().find(({ dataset: { row, column } }) => [row, column].join() === place);
  if (to) enter(to);
});
new MutationObserver(() => {
  const again = held && cells().find((cell) => cell.dataset.pair === held);
  if (again && document.activeElement !== again) enter(again);
}).observe(element, { childList: true, subtree: true });
