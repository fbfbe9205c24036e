// What is done to a row of paraphrases is told to the program: remove, up, down, pasted lines, typed texts. Gradio calls
// this with `trigger`.
const rowOf = (element) => {
  const box = element.closest?.('.wording-row')?.querySelector('[id^="paraphrase-"]');
  return box ? Number(box.id.split('-')[1]) - 1 : -1;
};
// A paste of several lines becomes several rows: the first line joins what stands before the cursor, the last one what
// stands after it, as in any text box; blank lines are left out.
document.addEventListener('paste', (event) => {
  const lines = (event.clipboardData?.getData('text/plain') ?? '').split(/[\r\n]+/).filter((line) => line.trim());
  const row = rowOf(event.target);
  if (row < 0 || lines.length < 2) return;
  event.preventDefault();
  document.documentElement.dataset.pasting = '';
  setTimeout(() => delete document.documentElement.dataset.pasting, 1000); // a paste may change nothing
  const { value, selectionStart, selectionEnd } = event.target;
  lines[0] = value.slice(0, selectionStart) + lines[0];
  lines[lines.length - 1] += value.slice(selectionEnd);
  trigger('select', { row, lines });
}, true);
// A box itself tells of pressed keys only: no deletion, no dictation.
document.addEventListener('input', (event) => {
  if (event.target.matches('.wording-row textarea')) trigger('input');
}, true);
document.addEventListener('click', (event) => {
  const button = event.target.closest?.('.row-tools button');
  if (button) trigger('select', { row: rowOf(button), act: button.dataset.act });
});
// What `Events` tells: that something has changed. Many rows change one after the other, as each comes to be there: all
// of it is one change.
let soon = 0;
document.addEventListener('flexdemo:changed', () => {
  delete document.documentElement.dataset.pasting;
  clearTimeout(soon);
  soon = setTimeout(() => trigger('change'), 50);
});
