// The mask, the tokens and the legend as one: what is picked in one is shown in the others, in words underneath.
// Every word comes from the rules in the figure's layout.meta; texts enter the page as text, never as markup.
(() => {
  const REDRAW_MS = 300, LIVE_TOKENS = 200, NONE = 255;
  const find = (selector) => document.querySelector(selector);
  const graph = () => find('#mask-plot .js-plotly-plot');
  const metaOf = (gd) => gd?.layout?.meta;
  let pick = null; // {rows: [first, end], columns: [first, end], kind}
  let tip = null;

  // What the mask says

  const starts = (meta) => meta.segments.map((segment) => segment[1]);
  function segmentOf(meta, token) {
    let found = 0;
    meta.segments.forEach(([, start], i) => { if (start <= token) found = i; });
    return found;
  }
  const endOf = (meta, i) => meta.segments[i + 1]?.[1] ?? meta.length + (meta.answer?.length ?? 0);
  const isVisible = (meta, code) => code !== NONE && meta.reasons[code].startsWith('visible');
  const code = (meta, rules, q, k) => {
    const n = meta.segments.length;
    const why = rules[(segmentOf(meta, q) * n + segmentOf(meta, k)) * 2 + (k > q ? 1 : 0)];
    return q === k && !isVisible(meta, why) ? meta.itself : why; // a token sees itself whatever its segment sees
  };
  const textOf = (meta, token) => (token < meta.length ? meta.tokens[token] : meta.answer?.[token - meta.length]) ?? '';
  const named = (meta, token) => `${token} ${textOf(meta, token)} (${meta.segments[segmentOf(meta, token)][0]})`;
  const total = (meta) => meta.length + (meta.answer?.length ?? 0);
  const bare = (phrase) => phrase.replace(/^(visible|hidden): /, '');

  // Numbers of visible and hidden keys of a query (or queries of a key), by segment and reason.
  function counted(meta, token, asKey) {
    const groups = [];
    for (let s = 0; s < meta.segments.length; s++) {
      const tally = new Map();
      for (let other = starts(meta)[s]; other < endOf(meta, s); other++) {
        const why = asKey ? code(meta, meta.rules, other, token) : code(meta, meta.rules, token, other);
        tally.set(why, (tally.get(why) ?? 0) + 1);
      }
      for (const [why, count] of tally) groups.push({ name: meta.segments[s][0], why, count });
    }
    return groups;
  }

  // Words

  function told(meta, groups, wanted) {
    const kept = groups.filter((group) => isVisible(meta, group.why) === wanted);
    return kept.map((group) => `${group.name} ${group.count} (${bare(meta.reasons[group.why])})`).join(', ') || 'none';
  }
  const sum = (meta, groups) => groups.filter((g) => isVisible(meta, g.why)).reduce((all, g) => all + g.count, 0);

  function rowWords(meta, token) {
    const groups = counted(meta, token, false);
    return [`Query ${named(meta, token)} sees ${sum(meta, groups)} of ${total(meta)}: ${told(meta, groups, true)}. `
      + `Hidden from it: ${told(meta, groups, false)}.`];
  }
  function columnWords(meta, token) {
    const groups = counted(meta, token, true);
    return [`Key ${named(meta, token)} is seen by ${sum(meta, groups)} of ${total(meta)}: ${told(meta, groups, true)}.`];
  }
  function segmentWords(meta, s) {
    const n = meta.segments.length, [name, start] = meta.segments[s], end = endOf(meta, s);
    const pairs = (asKey) => meta.segments.flatMap(([other], i) => {
      const at = (asKey ? i * n + s : s * n + i) * 2;
      const whys = [meta.rules[at], meta.rules[at + 1]].filter((why) => isVisible(meta, why));
      return endOf(meta, i) > meta.segments[i][1] ? whys.map((why) => `${other} (${bare(meta.reasons[why])})`) : [];
    }).join(', ') || 'none';
    if (end <= start) return [`${name} has no tokens.`];
    return [`${name}: tokens ${start} to ${end - 1}. They see ${pairs(false)}.`, `They are seen by ${pairs(true)}.`];
  }
  const cellWords = (meta, q, k) => {
    const why = meta.reasons[code(meta, meta.rules, q, k)];
    return meta.other ? `left: ${why}; right: ${meta.reasons[code(meta, meta.other, q, k)]}` : why;
  };
  function words(meta) {
    if (!pick) return [];
    const [q, k] = [pick.rows[0], pick.columns[0]];
    if (pick.kind === 'segment') return segmentWords(meta, pick.segment);
    if (pick.kind === 'token') return [...rowWords(meta, q), ...columnWords(meta, q)];
    if (pick.kind === 'cell') {
      return [`Query ${named(meta, q)}, key ${named(meta, k)}: ${cellWords(meta, q, k)}.`,
        ...rowWords(meta, q), ...columnWords(meta, k)];
    }
    return [`Queries ${q} to ${pick.rows[1] - 1}, keys ${k} to ${pick.columns[1] - 1}. `
      + `Between the first of each: ${cellWords(meta, q, k)}.`];
  }

  // Pictures

  const tokenElements = () => [...document.querySelectorAll('#token-view .token, #answer-tokens .token')];
  const ink = () => (document.body.classList.contains('dark') ? '#FFFFFF' : '#111111');
  function bands(meta) {
    if (!pick) return [];
    const inside = (value, from) => (value - from) / meta.block - 0.5;
    const [right, bottom] = meta.block > 1 ? [Math.ceil(meta.length / meta.block), Math.ceil(meta.length / meta.block)]
      : meta.size < meta.length ? [meta.size, meta.size] : [total(meta), total(meta)];
    const clip = (value, most) => Math.min(Math.max(value, -0.5), most - 0.5);
    const wide = (value, step, from) => (step < 0 ? Math.floor((value - from) / meta.block) : Math.ceil((value - from) / meta.block)) - 0.5;
    const look = { type: 'rect', name: 'pick', layer: 'above', line: { color: ink(), width: 1.5 }, fillcolor: 'rgba(213,94,0,0.16)' };
    const rows = [wide(pick.rows[0], -1, meta.row), wide(pick.rows[1], 1, meta.row)].map((v) => clip(v, bottom));
    const columns = [wide(pick.columns[0], -1, meta.column), wide(pick.columns[1], 1, meta.column)].map((v) => clip(v, right));
    const made = [];
    if (rows[1] > rows[0]) made.push({ ...look, x0: -0.5, x1: right - 0.5, y0: rows[0], y1: rows[1] });
    if (columns[1] > columns[0]) made.push({ ...look, x0: columns[0], x1: columns[1], y0: -0.5, y1: bottom - 0.5 });
    return made;
  }
  function paintBands(gd) {
    const shapes = (gd.layout.shapes ?? []).filter((shape) => shape.name !== 'pick');
    const drawn = (gd.layout.shapes ?? []).length !== shapes.length;
    if (drawn || pick) window.Plotly.relayout(gd, { shapes: [...shapes, ...bands(metaOf(gd))] });
  }
  function paintTokens(meta) {
    for (const view of document.querySelectorAll('#token-view .textfield, #answer-tokens .textfield')) {
      view.classList.toggle('linked', Boolean(pick));
    }
    const [low, high] = pick ? pick.rows : [0, 0], [left, right] = pick ? pick.columns : [0, 0];
    const [queries, keys] = [probes(meta, low, high), probes(meta, left, right)];
    tokenElements().forEach((element, i) => {
      element.classList.toggle('picked', Boolean(pick) && ((i >= low && i < high) || (i >= left && i < right)));
      const itself = (first, end) => (i >= first && i < end ? [i] : []);
      const seen = [...queries, ...itself(low, high)].some((q) => isVisible(meta, code(meta, meta.rules, q, i)));
      const sees = [...keys, ...itself(left, right)].some((k) => isVisible(meta, code(meta, meta.rules, i, k)));
      element.classList.toggle('seen', seen);
      element.classList.toggle('sees', sees);
    });
  }
  // Tokens that decide what a range sees and is seen by: its ends, and those of the segments inside it. A block of the
  // overview may hold several segments whole.
  function probes(meta, first, end) {
    const ends = [first, end - 1, ...starts(meta).flatMap((start) => [start - 1, start])];
    return [...new Set(ends)].filter((token) => token >= first && token < end);
  }
  // The answer's tokens stand behind those of the prompt, in an element that belongs to this script.
  function paintAnswer(meta) {
    const place = find('#answer-tokens');
    if (!place) return;
    const tokens = meta.answer ?? [], view = place.querySelector('.textfield');
    place.hidden = !tokens.length;
    place.querySelector('[data-segment]').dataset.segment = meta.segments.length - 1;
    place.querySelector('.count').textContent = tokens.length;
    if (tokens.length === view.children.length && tokens.every((text, i) => text === view.children[i].textContent)) return;
    view.replaceChildren(...tokens.map((text) => {
      const token = Object.assign(document.createElement('span'), { className: 'token' });
      token.append(Object.assign(document.createElement('span'), { className: 'text', textContent: text }));
      return token;
    }));
  }
  const LEGEND = ':is(#token-legend, #answer-tokens) [data-segment]';
  function paintLegend() {
    document.querySelectorAll(LEGEND).forEach((chip) => {
      chip.setAttribute('aria-pressed', String(pick?.kind === 'segment' && pick.segment === Number(chip.dataset.segment)));
    });
  }
  function paintWords(meta) {
    const place = find('#link-words');
    if (!place) return;
    place.replaceChildren(...words(meta).map((text) => Object.assign(document.createElement('p'), { textContent: text })));
    const exact = find('#link-exact');
    if (exact) exact.hidden = !(pick && meta.length > meta.exact);
  }
  function show() {
    const gd = graph(), meta = metaOf(gd);
    if (!meta) return;
    if (pick && (pick.rows[1] > total(meta) || pick.columns[1] > total(meta))) pick = null;
    paintBands(gd);
    paintAnswer(meta);
    paintTokens(meta);
    paintLegend();
    paintWords(meta);
  }

  // Picking

  function pickCell(meta, x, y) {
    const [column, row] = [Math.round(x), Math.round(y)];
    if (meta.block === 1) {
      const [q, k] = [row + meta.row, column + meta.column];
      return { kind: 'cell', rows: [q, q + 1], columns: [k, k + 1] };
    }
    const range = (i) => [i * meta.block, Math.min(meta.length, (i + 1) * meta.block)];
    return { kind: 'block', rows: range(row), columns: range(column) };
  }
  function pickToken(token) {
    pick = { kind: 'token', rows: [token, token + 1], columns: [token, token + 1] };
    const box = find('#link-token');
    if (box && Number(box.value) !== token) box.value = token;
    show();
  }
  function pickSegment(segment) {
    const meta = metaOf(graph());
    const again = pick?.kind === 'segment' && pick.segment === segment;
    const range = [meta.segments[segment][1], endOf(meta, segment)];
    pick = again ? null : { kind: 'segment', segment, rows: range, columns: range };
    show();
  }
  function clear() {
    pick = null;
    const box = find('#link-token');
    if (box) box.value = '';
    show();
  }
  document.addEventListener('click', (event) => {
    const token = event.target.closest?.(':is(#token-view, #answer-tokens) .token');
    if (token) pickToken(tokenElements().indexOf(token));
    const chip = event.target.closest?.(LEGEND);
    if (chip && metaOf(graph())) pickSegment(Number(chip.dataset.segment));
    if (event.target.closest?.('#link-clear')) clear();
    if (event.target.closest?.('#link-exact')) zoomHere();
  });
  document.addEventListener('input', (event) => {
    if (event.target.id !== 'link-token') return;
    const meta = metaOf(graph()), token = Number(event.target.value);
    if (event.target.value === '') clear();
    else if (meta && Number.isInteger(token) && token >= 0 && token < total(meta)) pickToken(token);
    else {
      pick = null;
      show();
      const said = `There is no token ${event.target.value}: choose 0 to ${total(meta) - 1}.`;
      find('#link-words')?.replaceChildren(Object.assign(document.createElement('p'), { textContent: said }));
    }
  });

  // The exact window: through the page's own fields, as a visitor would.
  let zoomed = null; // {rows, columns}: what was dragged over in the overview
  for (const kind of ['pointerdown', 'keydown']) { // the visitor chooses another window
    document.addEventListener(kind, (event) => { if (event.target.closest?.('#mask-window')) zoomed = null; });
  }
  function showExactly(meta, rows, columns) {
    const set = (id, range) => {
      const middle = Math.floor((range[0] + range[1]) / 2);
      const field = find(`#${id} input[type=number]`);
      field.value = Math.max(0, Math.min(meta.length - meta.exact, middle - meta.exact / 2));
      field.dispatchEvent(new Event('input', { bubbles: true }));
      field.dispatchEvent(new Event('blur', { bubbles: true }));
    };
    set('mask-query', rows);
    set('mask-key', columns);
    const exact = find('#mask-exact input');
    if (!exact.checked) exact.click();
  }
  function zoomHere() {
    const meta = metaOf(graph());
    if (!pick || !meta) return;
    zoomed = null;
    showExactly(meta, pick.rows, pick.columns);
  }
  // A part of the overview that was dragged over is drawn cell by cell, if so many cells can be drawn.
  function dragged(meta, change) {
    if (meta.block === 1) return;
    const range = (axis) => {
      const ends = [0, 1].map((i) => change[`${axis}.range[${i}]`] ?? change[`${axis}.range`]?.[i]).sort((a, b) => a - b);
      const [low, high] = ends.map((end) => (end + 0.5) * meta.block);
      return [Math.max(0, Math.floor(low)), Math.min(meta.length, Math.ceil(high))];
    };
    const [columns, rows] = ['xaxis', 'yaxis'].map(range);
    if (![columns, rows].every(([first, end]) => end - first > 0 && end - first <= meta.exact)) return;
    zoomed = { rows, columns };
    showExactly(meta, rows, columns);
  }
  function narrow(gd, meta) {
    if (!zoomed || meta.block > 1 || meta.size >= meta.length) return;
    const inside = (range, from) => [range[0] - from - 0.5, range[1] - from - 0.5];
    const [x, y] = [inside(zoomed.columns, meta.column), inside(zoomed.rows, meta.row)];
    if ([...x, ...y].some((at) => at < -0.5 || at > meta.size - 0.5)) return;
    window.Plotly.relayout(gd, { 'xaxis.range': x, 'yaxis.range': y.reverse() });
  }
  function zoomOut() {
    if (!zoomed) return;
    zoomed = null;
    const exact = find('#mask-exact input');
    if (exact.checked) exact.click();
  }

  // Pointing

  function hover(event) {
    const gd = graph(), meta = metaOf(gd), point = event.points[0];
    if (!meta || !point) return;
    tip ??= Object.assign(document.createElement('div'), { className: 'hovertext', role: 'tooltip' });
    const at = pickCell(meta, point.x, point.y);
    const [q, k] = [at.rows[0], at.columns[0]];
    tip.textContent = at.kind === 'cell'
      ? `query ${named(meta, q)}\nkey   ${named(meta, k)}\n${cellWords(meta, q, k)}`
      : `queries ${q} to ${at.rows[1] - 1}\nkeys    ${k} to ${at.columns[1] - 1}\n${blockWords(meta, point.z)}`;
    find('#mask-plot').append(tip);
    const box = tip.getBoundingClientRect(), { clientX, clientY } = event.event;
    tip.style.left = `${Math.max(4, Math.min(clientX + 14, innerWidth - box.width - 8))}px`;
    tip.style.top = `${clientY + 18 + box.height > innerHeight ? clientY - box.height - 12 : clientY + 18}px`;
  }
  const blockWords = (meta, z) => meta.other ? `added minus removed ${(z * 100).toFixed(1)} %` : `${(z * 100).toFixed(1)} % of the pairs visible`;

  // A row for each answer token

  let live = null, waiting = 0, drawn = 0;
  function readLive() {
    const text = find('#live [data-live]')?.dataset.live;
    live = text ? JSON.parse(text) : null;
    schedule();
  }
  function schedule() {
    if (waiting) return;
    waiting = setTimeout(() => { waiting = 0; grow(); }, Math.max(0, drawn + REDRAW_MS - performance.now()));
  }
  function grow() {
    const gd = graph(), meta = metaOf(gd);
    const mine = meta && !meta.other && live?.[meta.side];
    if (!gd?._fullLayout || !mine || mine.signature !== meta.signature) return;
    const cells = meta.block === 1 && meta.size >= meta.length; // else the answer has tokens and no rows
    if (cells && meta.length > LIVE_TOKENS && !mine.done) return;
    if (meta.answer?.length === mine.tokens.length && meta.answer.every((text, i) => text === mine.tokens[i])) return;
    drawn = performance.now();
    const before = total(meta);
    meta.answer = mine.tokens;
    if (!cells) return show();
    const size = total(meta), owners = Array.from({ length: size }, (_, token) => segmentOf(meta, token));
    const n = meta.segments.length, visible = meta.rules.map((why) => isVisible(meta, why));
    const z = owners.map((asks, q) => Uint8Array.from(owners, (seen, k) =>
      (q === k || visible[(asks * n + seen) * 2 + (k > q ? 1 : 0)] ? meta.z[seen] : 0)));
    const whole = (axis) => Math.abs(Math.abs(axis.range[1] - axis.range[0]) - before) < 1e-6;
    const change = { shapes: frame(meta, size), meta, ...labels(gd, meta) };
    for (const name of ['xaxis', 'yaxis']) {
      if (whole(gd.layout[name])) change[`${name}.range`] = name === 'xaxis' ? [-0.5, size - 0.5] : [size - 0.5, -0.5];
    }
    window.Plotly.update(gd, { z: [z] }, change);
    show();
  }

  // Labels of the axes, as the program sets them, for the size that the figure has here.

  const MARK = 20, LETTER = 7, HIGH = 16, LINES = 3, NARROW = 420;
  function labels(gd, meta) {
    const shown = meta.block > 1 ? meta.length : meta.size < meta.length ? meta.size : total(meta);
    const placed = (from, pixels) => meta.segments.flatMap(([name, start, colour], i) => {
      const [first, end] = [Math.max(start, from), Math.min(endOf(meta, i), from + shown)];
      const at = (first + end - 2 * from) / (2 * meta.block) - 0.5;
      const mark = `<span style="color:${colour}">■</span>`, text = `${mark} ${name}`;
      return first < end ? [{ at, text, mark, middle: at * pixels * meta.block / shown, half: (MARK + LETTER * name.length) / 2 }] : [];
    });
    const ends = Array(LINES).fill(-Infinity);
    const across = placed(meta.column, gd._fullLayout.xaxis._length).map(({ at, text, middle, half }) => {
      const free = ends.findIndex((end) => end <= middle - half), line = free < 0 ? ends.indexOf(Math.min(...ends)) : free;
      ends[line] = middle + half;
      return { at, text: '<br>'.repeat(line) + text };
    });
    const groups = [], mean = (group, key) => group.reduce((sum, each) => sum + each[key], 0) / group.length;
    for (const each of placed(meta.row, gd._fullLayout.yaxis._length)) {
      if (groups.length && each.middle - mean(groups.at(-1), 'middle') < HIGH) groups.at(-1).push(each);
      else groups.push([each]);
    }
    // On a narrow figure several names on one line would take its room from the mask: there their colours stand for them.
    const bare = gd._fullLayout.width < NARROW;
    const joined = (group) => group.map(({ text, mark }) => (bare && group.length > 1 ? mark : text)).join(' ');
    const down = groups.map((group) => ({ at: mean(group, 'at'), text: joined(group) }));
    const told = (list, key) => list.map((each) => each[key]);
    return { 'xaxis.tickvals': told(across, 'at'), 'xaxis.ticktext': told(across, 'text'),
      'yaxis.tickvals': told(down, 'at'), 'yaxis.ticktext': told(down, 'text') };
  }
  function label(gd, meta) {
    const change = labels(gd, meta);
    const same = ['xaxis', 'yaxis'].every((name) => {
      const texts = [...gd.layout[name].ticktext], wanted = change[`${name}.ticktext`];
      return texts.length === wanted.length && texts.every((text, i) => text === wanted[i]);
    });
    if (!same) window.Plotly.relayout(gd, change);
  }
  function frame(meta, size) {
    const line = { color: 'rgba(128,136,148,0.75)', width: 1 }, far = size - 0.5;
    const bounds = meta.segments.slice(1).map(([, start]) => start - 0.5).filter((at) => at > -0.5 && at < far);
    return [...bounds.map((x) => ({ type: 'line', x0: x, x1: x, y0: -0.5, y1: far, line })),
      ...bounds.map((y) => ({ type: 'line', x0: -0.5, x1: far, y0: y, y1: y, line })),
      { type: 'rect', x0: -0.5, x1: far, y0: -0.5, y1: far, line }];
  }

  // A weight moved by keys is let go of a little after the last key: then the answer is decoded again, as after a drag.

  let letGo = 0;
  document.addEventListener('keyup', (event) => {
    if (!event.target.matches?.('.weight input[type=range]') || !/^(Arrow|Home|End|Page)/.test(event.key)) return;
    clearTimeout(letGo);
    letGo = setTimeout(() => event.target.dispatchEvent(new PointerEvent('pointerup', { bubbles: true })), REDRAW_MS);
  });

  // What a slider cannot hold is not told to the program while it is typed: "0" on the way to "0.9", or nothing. Once
  // the field is left, or Enter is pressed, it holds the nearest number that fits, the last one where it is empty. A seed
  // is whole as well.

  const rangeOf = (field) => (field.matches?.('input[type=number]') ? field.closest('.block')?.querySelector('input[type=range]') : null);
  const isWhole = ({ value, step }) => step % 1 !== 0 || Number.isInteger(Number(value));
  const fits = (field) => field.value !== '' && Number(field.value) >= Number(field.min) && Number(field.value) <= Number(field.max)
    && isWhole(field);
  function settle(field) {
    const range = rangeOf(field), isSeed = Boolean(field.matches?.('#seed input'));
    if (range ? fits(field) : !isSeed || field.value === '' || isWhole(field)) return;
    if (field.value === '') field.value = range.value;
    else if (range) field.value = Math.min(Math.max(Number(field.value), Number(field.min)), Number(field.max));
    if (!isWhole(field)) field.value = Math.round(Number(field.value));
    field.dispatchEvent(new Event('input', { bubbles: true }));
  }
  document.addEventListener('input', (event) => {
    if (rangeOf(event.target) && !fits(event.target)) event.stopImmediatePropagation();
  }, true);
  document.addEventListener('blur', (event) => settle(event.target), true);
  document.addEventListener('keydown', (event) => { if (event.key === 'Enter') settle(event.target); }, true);

  // New figures, tokens and legends come from the program at any time.

  function bind() {
    const gd = graph();
    if (gd && metaOf(gd) && gd.on && gd._fullLayout && !gd.linked) {
      gd.linked = true;
      gd.on('plotly_click', (event) => {
        const point = event.points[0];
        pick = pickCell(metaOf(gd), point.x, point.y);
        show();
      });
      gd.on('plotly_hover', hover);
      gd.on('plotly_relayout', (change) => dragged(metaOf(gd), change));
      gd.on('plotly_doubleclick', zoomOut);
      gd.on('plotly_autosize', () => label(gd, metaOf(gd)));
      gd.on('plotly_unhover', () => tip?.remove());
      tip?.remove();
      narrow(gd, metaOf(gd));
      label(gd, metaOf(gd));
      grow();
      show();
    }
  }
  function watch() {
    const [plot, tokens, live] = ['#mask-plot', '#token-view', '#live'].map(find);
    if (!plot || !tokens || !live) return setTimeout(watch, 50);
    let asked = 0;
    const later = () => { asked ||= setTimeout(() => { asked = 0; bind(); }, 30); };
    new MutationObserver(later).observe(plot, { childList: true, subtree: true });
    let fresh = 0;
    const repaint = () => { fresh ||= setTimeout(() => { fresh = 0; if (pick) show(); }, 30); };
    new MutationObserver(repaint).observe(tokens, { childList: true, subtree: true });
    new MutationObserver(readLive).observe(live, { childList: true, subtree: true, attributes: true, characterData: true });
    bind();
    readLive();
    warm();
  }
  async function warm() {
    const line = find('#warming p');
    if (!line) return;
    const told = await fetch('./healthz').then((answer) => answer.json(), () => ({ warming: line.textContent }));
    if (!told.warming) return find('#warming').remove();
    line.textContent = told.warming;
    setTimeout(warm, 1000);
  }
  watch();
})();
