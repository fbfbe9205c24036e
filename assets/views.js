// The two masks, the tokens and the legend as one view: what is picked or enlarged in one is shown in all, in words
// underneath. Every word comes from the rules in a figure's layout.meta; texts enter the page as text, never as markup.
(() => {
  const REDRAW_MS = 300, LIVE_TOKENS = 200, NONE = 255;
  const SIDES = { left: '#mask-plot', right: '#mask-plot-right' };
  const find = (selector) => document.querySelector(selector);
  const make = (tag, properties) => Object.assign(document.createElement(tag), properties);
  const graph = (side) => find(`${SIDES[side]} .js-plotly-plot`);
  const metaOf = (gd) => gd?.layout?.meta;
  const graphs = () => Object.keys(SIDES).map((side) => ({ side, gd: graph(side) })).filter(({ gd }) => metaOf(gd) && gd._fullLayout);
  let pick = null; // {kind, rows: [first, end], columns: [first, end], segment}
  let tip = null;

  // What a mask says

  const starts = (meta) => meta.segments.map((segment) => segment[1]);
  const segmentOf = (meta, token) => meta.segments.findLastIndex(([, start]) => start <= token);
  const total = (meta) => meta.length + (meta.answer?.length ?? 0);
  const endOf = (meta, i) => meta.segments[i + 1]?.[1] ?? total(meta);
  const isVisible = (meta, code) => code !== NONE && meta.reasons[code].startsWith('visible');
  function code(meta, q, k) {
    const n = meta.segments.length;
    const why = meta.rules[(segmentOf(meta, q) * n + segmentOf(meta, k)) * 2 + (k > q ? 1 : 0)];
    return q === k && !isVisible(meta, why) ? meta.reasons.indexOf('visible: itself') : why;
  }
  const textOf = (meta, token) => (token < meta.length ? meta.tokens[token] : meta.answer?.[token - meta.length]) ?? '';
  const named = (meta, token) => `${token} ${textOf(meta, token)} (${meta.segments[segmentOf(meta, token)][0]})`;
  const bare = (phrase) => phrase.replace(/^(visible|hidden): /, '');

  // Words: of a token's row and column, of a segment, of a cell, as each side has it.

  function counted(meta, token, asKey) {
    const groups = [];
    for (let s = 0; s < meta.segments.length; s++) {
      const tally = new Map();
      for (let other = starts(meta)[s]; other < endOf(meta, s); other++) {
        const why = asKey ? code(meta, other, token) : code(meta, token, other);
        tally.set(why, (tally.get(why) ?? 0) + 1);
      }
      for (const [why, count] of tally) groups.push({ name: meta.segments[s][0], why, count });
    }
    return groups;
  }
  function told(meta, groups, wanted) {
    const kept = groups.filter((group) => isVisible(meta, group.why) === wanted);
    return kept.map((group) => `${group.name} ${group.count} (${bare(meta.reasons[group.why])})`).join(', ') || 'none';
  }
  const sum = (meta, groups) => groups.filter((g) => isVisible(meta, g.why)).reduce((all, g) => all + g.count, 0);
  function rowWords(meta, token) {
    const groups = counted(meta, token, false);
    const earlier = groups.filter(({ why }) => meta.reasons[why] !== 'hidden: later token');
    return `query ${named(meta, token)} sees ${sum(meta, groups)} of ${total(meta)}: ${told(meta, groups, true)}. `
      + `Hidden from it, of what is earlier: ${told(meta, earlier, false)}.`;
  }
  function columnWords(meta, token) {
    const groups = counted(meta, token, true);
    return `Key ${named(meta, token)} is seen by ${sum(meta, groups)}: ${told(meta, groups, true)}.`;
  }
  function segmentWords(meta, s) {
    const n = meta.segments.length, [name, start] = meta.segments[s], end = endOf(meta, s);
    const pairs = (asKey) => meta.segments.flatMap(([other], i) => {
      const at = (asKey ? i * n + s : s * n + i) * 2;
      const whys = [meta.rules[at], meta.rules[at + 1]].filter((why) => isVisible(meta, why));
      return endOf(meta, i) > meta.segments[i][1] ? whys.map((why) => `${other} (${bare(meta.reasons[why])})`) : [];
    }).join(', ') || 'none';
    if (end <= start) return `${name} has no tokens.`;
    return `${name}, tokens ${start} to ${end - 1}, sees ${pairs(false)}; is seen by ${pairs(true)}.`;
  }
  function wordsOf(meta) {
    const [q, k] = [pick.rows[0], pick.columns[0]];
    if (pick.kind === 'segment') return segmentWords(meta, pick.segment);
    if (pick.kind === 'token') return `${rowWords(meta, q)} ${columnWords(meta, q)}`;
    if (pick.kind === 'cell') return `${meta.reasons[code(meta, q, k)]}; ${rowWords(meta, q)}`;
    return `between the first of each, ${meta.reasons[code(meta, q, k)]}.`;
  }
  function words() {
    const seen = graphs(), meta = metaOf(seen[0]?.gd);
    if (!pick || !meta) return [];
    const [q, k] = [pick.rows[0], pick.columns[0]];
    const heads = { cell: `Query ${named(meta, q)}, key ${named(meta, k)}.`,
      block: `Queries ${q} to ${pick.rows[1] - 1}, keys ${k} to ${pick.columns[1] - 1}.` };
    const lines = seen.map(({ side, gd }) => `${side[0].toUpperCase()}${side.slice(1)}: ${wordsOf(metaOf(gd))}`);
    return heads[pick.kind] ? [heads[pick.kind], ...lines] : lines;
  }

  // Pictures

  const tokenElements = () => [...document.querySelectorAll('#token-view .token, #answer-tokens .token')];
  const ink = () => (document.body.classList.contains('dark') ? '#FFFFFF' : '#111111');
  // What a figure draws: all of the prompt (with the answer, if cell by cell), or a part of a long one.
  function view(meta) {
    const all = [0, meta.block > 1 ? meta.length : total(meta)];
    return meta.part ?? { rows: all, columns: all };
  }
  const step = (meta) => (meta.part ? 1 : meta.block);
  function inside(meta, axis, range) { // a range of tokens in the figure's own cells, clipped
    const [from, to] = view(meta)[axis], size = step(meta);
    const clip = (token) => Math.min(Math.max(token, from), to);
    const [low, high] = [Math.floor((clip(range[0]) - from) / size), Math.ceil((clip(range[1]) - from) / size)];
    return high > low ? [low - 0.5, high - 0.5] : null;
  }
  function bands(meta) {
    if (!pick) return [];
    const rows = inside(meta, 'rows', pick.rows), columns = inside(meta, 'columns', pick.columns);
    const [high, wide] = [inside(meta, 'rows', view(meta).rows), inside(meta, 'columns', view(meta).columns)];
    const look = { type: 'rect', name: 'pick', layer: 'above', line: { color: ink(), width: 1.5 }, fillcolor: 'rgba(213,94,0,0.16)' };
    return [rows && { ...look, x0: wide[0], x1: wide[1], y0: rows[0], y1: rows[1] },
      columns && { ...look, x0: columns[0], x1: columns[1], y0: high[0], y1: high[1] }].filter(Boolean);
  }
  // Pairs of segments that this side sees and the other does not, outlined: a rectangle, or half a square of one segment.
  function outlines(meta, other) {
    if (!find('#link-outline')?.checked || !other || other.length !== meta.length) return [];
    const n = meta.segments.length, made = [];
    const line = { color: '#B4480A', width: 2 }, look = { name: 'only', layer: 'above', line };
    for (let q = 0; q < n; q++) for (let k = 0; k < n; k++) for (const later of [0, 1]) {
      const at = (q * n + k) * 2 + later;
      if (meta.rules[at] === NONE || !isVisible(meta, meta.rules[at]) || isVisible(other, other.rules[at])) continue;
      const rows = inside(meta, 'rows', [meta.segments[q][1], endOf(meta, q)]);
      const columns = inside(meta, 'columns', [meta.segments[k][1], endOf(meta, k)]);
      if (!rows || !columns) continue;
      const [y0, y1, x0, x1] = [...rows, ...columns];
      const half = later ? `M${x0},${y0}L${x1},${y0}L${x1},${y1}Z` : `M${x0},${y0}L${x0},${y1}L${x1},${y1}Z`;
      made.push(q === k ? { ...look, type: 'path', path: half } : { ...look, type: 'rect', x0, x1, y0, y1 });
    }
    return made;
  }
  function paintShapes() {
    const seen = graphs();
    for (const { gd } of seen) {
      const others = seen.filter((each) => each.gd !== gd);
      const kept = (gd.layout.shapes ?? []).filter(({ name }) => name !== 'pick' && name !== 'only');
      const drawn = [...outlines(metaOf(gd), metaOf(others[0]?.gd)), ...bands(metaOf(gd))];
      if (drawn.length || kept.length !== (gd.layout.shapes ?? []).length) together(() => [window.Plotly.relayout(gd, { shapes: [...kept, ...drawn] })]);
    }
  }
  // Tokens that decide what a range sees and is seen by: its ends, and those of the segments inside it.
  function probes(meta, first, end) {
    const ends = [first, end - 1, ...starts(meta).flatMap((start) => [start - 1, start])];
    return [...new Set(ends)].filter((token) => token >= first && token < end);
  }
  function paintTokens(meta) {
    for (const field of document.querySelectorAll('#token-view .textfield, #answer-tokens .textfield')) {
      field.classList.toggle('linked', Boolean(pick));
    }
    const [low, high] = pick ? pick.rows : [0, 0], [left, right] = pick ? pick.columns : [0, 0];
    const [queries, keys] = [probes(meta, low, high), probes(meta, left, right)];
    tokenElements().forEach((element, i) => {
      const itself = (first, end) => (i >= first && i < end ? [i] : []);
      element.classList.toggle('picked', Boolean(pick) && ((i >= low && i < high) || (i >= left && i < right)));
      element.classList.toggle('seen', [...queries, ...itself(low, high)].some((q) => isVisible(meta, code(meta, q, i))));
      element.classList.toggle('sees', [...keys, ...itself(left, right)].some((k) => isVisible(meta, code(meta, i, k))));
    });
  }
  // The answer's tokens stand behind those of the prompt, in an element that belongs to this script.
  function paintAnswer(meta) {
    const place = find('#answer-tokens'), tokens = meta.answer ?? [], field = place?.querySelector('.textfield');
    if (!place) return;
    place.hidden = !tokens.length;
    place.querySelector('[data-segment]').dataset.segment = meta.segments.length - 1;
    place.querySelector('.count').textContent = tokens.length;
    if (tokens.length === field.children.length && tokens.every((text, i) => text === field.children[i].textContent)) return;
    field.replaceChildren(...tokens.map((textContent) => make('span', { className: 'token', textContent })));
  }
  const say = (lines) => find('#link-words')?.replaceChildren(...lines.map((textContent) => make('p', { textContent })));
  const LEGEND = ':is(#token-legend, #answer-tokens) [data-segment]';
  function show() {
    const meta = metaOf(graphs()[0]?.gd);
    if (!meta) return;
    if (pick && (pick.rows[1] > total(meta) || pick.columns[1] > total(meta))) pick = null;
    paintShapes();
    paintAnswer(meta);
    paintTokens(meta);
    document.querySelectorAll(LEGEND).forEach((chip) => {
      chip.setAttribute('aria-pressed', String(pick?.kind === 'segment' && pick.segment === Number(chip.dataset.segment)));
    });
    say(words());
    const exact = find('#link-exact');
    if (exact) exact.hidden = !(pick && meta.block > 1);
  }

  // Picking

  function pickCell(meta, x, y) {
    const [column, row] = [Math.round(x), Math.round(y)], size = step(meta);
    const range = (i, [from, to]) => [from + i * size, Math.min(to, from + (i + 1) * size)];
    return { kind: size === 1 ? 'cell' : 'block', rows: range(row, view(meta).rows), columns: range(column, view(meta).columns) };
  }
  function choose(next, token = '') { // the box of the token's number tells of a token alone
    pick = next;
    const box = find('#link-token');
    if (box && box.value !== String(token)) box.value = token;
    show();
  }
  const pickToken = (token) => choose({ kind: 'token', rows: [token, token + 1], columns: [token, token + 1] }, token);
  function pickSegment(segment) {
    const meta = metaOf(graphs()[0]?.gd), range = [meta.segments[segment][1], endOf(meta, segment)];
    const again = pick?.kind === 'segment' && pick.segment === segment;
    choose(again ? null : { kind: 'segment', segment, rows: range, columns: range });
  }
  document.addEventListener('click', (event) => {
    const token = event.target.closest?.(':is(#token-view, #answer-tokens) .token');
    if (token) pickToken(tokenElements().indexOf(token));
    const chip = event.target.closest?.(LEGEND);
    if (chip && graphs().length) pickSegment(Number(chip.dataset.segment));
    if (event.target.closest?.('#link-clear')) choose(null);
    if (event.target.closest?.('#link-exact') && pick) exactly(pick.rows, pick.columns);
  });
  document.addEventListener('input', (event) => {
    if (event.target.id === 'link-outline') return paintShapes();
    if (event.target.id !== 'link-token') return;
    const meta = metaOf(graphs()[0]?.gd), token = Number(event.target.value);
    if (event.target.value === '') return choose(null);
    if (meta && Number.isInteger(token) && token >= 0 && token < total(meta)) return pickToken(token);
    pick = null;
    show();
    say([`There is no token ${event.target.value}: choose 0 to ${total(meta) - 1}.`]);
  });
  function hover(gd, event) {
    const meta = metaOf(gd), point = event.points[0];
    if (!meta || !point) return;
    tip ??= make('div', { className: 'hovertext', role: 'tooltip' });
    const at = pickCell(meta, point.x, point.y), [q, k] = [at.rows[0], at.columns[0]];
    const sides = graphs().map((each) => `${each.side}: ${metaOf(each.gd).reasons[code(metaOf(each.gd), q, k)]}`).join('\n');
    tip.textContent = at.kind === 'cell' ? `query ${named(meta, q)}\nkey   ${named(meta, k)}\n${sides}`
      : `queries ${q} to ${at.rows[1] - 1}\nkeys    ${k} to ${at.columns[1] - 1}\n${(point.z * 100).toFixed(1)} % of the pairs visible`;
    gd.closest('.side').append(tip);
    const box = tip.getBoundingClientRect(), { clientX, clientY } = event.event;
    tip.style.left = `${Math.max(4, Math.min(clientX + 14, innerWidth - box.width - 8))}px`;
    tip.style.top = `${clientY + 18 + box.height > innerHeight ? clientY - box.height - 12 : clientY + 18}px`;
    cross(gd, point);
  }
  // The cell that is pointed at in one mask is ringed in the other.
  function cross(gd, point) {
    for (const other of graphs().filter((each) => each.gd !== gd)) {
      const { xaxis, yaxis, _size } = other.gd._fullLayout;
      let ring = other.gd.querySelector('.ring');
      if (!point) { ring?.remove(); continue; }
      ring ??= other.gd.appendChild(make('div', { className: 'ring' }));
      const [x, y] = [xaxis._offset + xaxis.l2p(point.x), yaxis._offset + yaxis.l2p(point.y)];
      const size = Math.max(8, Math.abs(xaxis.l2p(1) - xaxis.l2p(0)));
      Object.assign(ring.style, { left: `${x - size / 2}px`, top: `${y - size / 2}px`, width: `${size}px`, height: `${size}px` });
    }
  }

  // Zooming: both masks show the same part. A part of an overview that was dragged over is drawn cell by cell.

  let moving = 0; // changes of ours that the figures still tell of
  async function zoomed(gd, change) {
    if (moving || !Object.keys(change).some((key) => /^[xy]axis\.(range|autorange)/.test(key))) return;
    const meta = metaOf(gd), ranges = ['xaxis', 'yaxis'].map((axis) => [...gd.layout[axis].range]);
    if (meta.block > 1 && !meta.part) {
      const [columns, rows] = ranges.map((ends) => {
        const [low, high] = [...ends].sort((a, b) => a - b).map((end) => (end + 0.5) * meta.block);
        return [Math.max(0, Math.floor(low)), Math.min(meta.length, Math.ceil(high))];
      });
      if ([columns, rows].every(([first, end]) => end > first && end - first <= meta.exact)) return exactly(rows, columns);
    }
    await together(() => graphs().filter((each) => each.gd !== gd).map((each) => window.Plotly.relayout(each.gd,
      { 'xaxis.range': ranges[0], 'yaxis.range': ranges[1] })));
  }
  async function together(work) {
    moving += 1;
    await Promise.all(work());
    moving -= 1;
  }
  function redraw(partOf) {
    together(() => graphs().map(({ gd }) => {
      const meta = metaOf(gd);
      meta.part = partOf(meta);
      return draw(gd, meta);
    })).then(show);
  }
  const whole = () => redraw(() => undefined);
  function exactly(rows, columns) {
    const around = ([first, end], meta) => {
      const size = Math.min(meta.exact, Math.max(64, end - first)), middle = Math.floor((first + end) / 2);
      const from = Math.max(0, Math.min(meta.length - size, middle - Math.floor(size / 2)));
      return [from, Math.min(meta.length, from + size)];
    };
    redraw((meta) => ({ rows: around(rows, meta), columns: around(columns, meta) }));
  }
  // A double click shows all of both masks again: two clicks at one place, whether or not the figure is drawn anew
  // between them, with the band of what the first one picked.
  function clicked(gd, event) {
    const { timeStamp, clientX, clientY } = event.event, before = gd.clicked;
    gd.clicked = { timeStamp, clientX, clientY };
    const near = before && Math.hypot(clientX - before.clientX, clientY - before.clientY) < 6;
    if (near && timeStamp - before.timeStamp < 500) return whole();
    choose(pickCell(metaOf(gd), event.points[0].x, event.points[0].y));
  }
  function cells(meta) { // of what the figure draws, by the rules
    const n = meta.segments.length, visible = meta.rules.map((why) => isVisible(meta, why));
    const { rows, columns } = view(meta), range = ([from, to]) => Array.from({ length: to - from }, (_, i) => from + i);
    const seen = range(columns).map((k) => [k, segmentOf(meta, k)]);
    return range(rows).map((q) => {
      const asks = segmentOf(meta, q);
      return Uint8Array.from(seen, ([k, s]) => (q === k || visible[(asks * n + s) * 2 + (k > q ? 1 : 0)] ? meta.z[s] : 0));
    });
  }
  function draw(gd, meta) {
    const [{ z, colorscale, zmin, zmax }] = gd.data;
    gd.given ??= { z: [z], colorscale: [colorscale], zmin, zmax, xgap: 0, ygap: 0 };
    if (meta.block > 1 && !meta.part) return window.Plotly.update(gd, gd.given, layout(gd, meta));
    const steps = Math.max(...meta.z), colours = ['rgba(128,136,148,0.10)'];
    meta.segments.forEach(([, , colour], i) => { colours[meta.z[i]] = colour; });
    const scale = colours.flatMap((colour, i) => [[i / (steps + 1), colour], [(i + 1) / (steps + 1), colour]]);
    const gap = view(meta).rows[1] - view(meta).rows[0] <= 96 ? 1 : 0;
    return window.Plotly.update(gd, { z: [cells(meta)], colorscale: [scale], zmin: -0.5, zmax: steps + 0.5, xgap: gap, ygap: gap }, layout(gd, meta));
  }
  function layout(gd, meta) {
    const size = step(meta), far = ([from, to]) => Math.ceil((to - from) / size) - 0.5, { rows, columns } = view(meta);
    const line = { color: 'rgba(128,136,148,0.75)', width: 1 }, [bottom, right] = [far(rows), far(columns)];
    const at = (range) => starts(meta).slice(1).map((start) => (start - range[0]) / size - 0.5);
    const within = (place, end) => place > -0.5 && place < end;
    const shapes = [...at(columns).filter((x) => within(x, right)).map((x) => ({ type: 'line', x0: x, x1: x, y0: -0.5, y1: bottom, line })),
      ...at(rows).filter((y) => within(y, bottom)).map((y) => ({ type: 'line', x0: -0.5, x1: right, y0: y, y1: y, line })),
      { type: 'rect', x0: -0.5, x1: right, y0: -0.5, y1: bottom, line }];
    return { shapes, meta, 'xaxis.range': [-0.5, right], 'yaxis.range': [bottom, -0.5], ...labels(gd, meta) };
  }

  // A row for each answer token

  let live = null, waiting = 0, drawn = 0, cost = 0;
  function readLive() {
    const text = find('#live [data-live]')?.dataset.live;
    live = text ? JSON.parse(text) : null;
    // A page that draws slowly keeps time for its Stop button.
    waiting ||= setTimeout(() => { waiting = 0; grow(); }, Math.max(0, drawn + Math.max(REDRAW_MS, 3 * cost) - performance.now()));
  }
  function grow() {
    drawn = performance.now();
    for (const { side, gd } of graphs()) {
      const meta = metaOf(gd), mine = live?.[side];
      gd.closest('.side')?.classList.toggle('stale', Boolean(mine) && mine.signature !== meta.signature);
      if (!mine || mine.signature !== meta.signature) continue;
      if (meta.block === 1 && meta.length + mine.tokens.length > LIVE_TOKENS && !mine.done) continue;
      if (meta.answer?.length === mine.tokens.length && meta.answer.every((text, i) => text === mine.tokens[i])) continue;
      const before = total(meta), [left, right] = gd.layout.xaxis.range;
      meta.answer = mine.tokens;
      if (meta.block > 1 || Math.abs(right - left - before) > 1e-6) continue; // an overview, or a part that somebody enlarged
      together(() => [draw(gd, meta)]);
    }
    show();
    cost = performance.now() - drawn;
  }

  // Labels of the axes, as the program sets them, for the size that the figure has here.

  const MARK = 20, LETTER = 7, HIGH = 13, LINES = 4, LINE = 16, GAP = 8;
  function labels(gd, meta) {
    const size = step(meta), { rows, columns } = view(meta);
    const placed = ([from, to], pixels) => meta.segments.flatMap(([name, start, colour], i) => {
      const [first, end] = [Math.max(start, from), Math.min(endOf(meta, i), to)];
      if (first >= end || /^S\d/.test(name)) return [];
      const at = (first + end - 2 * from) / (2 * size) - 0.5, mark = `<span style="color:${colour}">■</span>`;
      return [{ at, text: `${mark} ${name}`, mark, middle: at * pixels * size / (to - from), half: (MARK + LETTER * name.length) / 2 }];
    });
    const ends = Array(LINES).fill(-Infinity);
    const across = placed(columns, gd._fullLayout.xaxis._length).map(({ at, text, mark, middle, half }) => {
      const free = ends.findIndex((end) => end <= middle - half), line = free < 0 ? ends.indexOf(Math.min(...ends)) : free;
      ends[line] = middle + (free < 0 ? MARK / 2 : half);
      return { at, text: '<br>'.repeat(line) + (free < 0 ? mark : text) };
    });
    const groups = [], mean = (group, key) => group.reduce((all, each) => all + each[key], 0) / group.length;
    for (const each of placed(rows, gd._fullLayout.yaxis._length)) {
      if (groups.length && each.middle - mean(groups.at(-1), 'middle') < HIGH) groups.at(-1).push(each);
      else groups.push([each]);
    }
    // Several names on one line would take its room from the mask: there, as where no line below has room for a name,
    // their colours stand for them.
    const joined = (group) => (group.length > 1 ? group.map(({ mark }) => mark).join('') : group[0].text);
    const list = (all, key) => all.map((each) => each[key]), texts = groups.map(joined);
    const wide = (text) => LETTER * text.replace(/<.*?>/g, '').length + 5 * (text.split('■').length - 1);
    const lines = 1 + ends.findLastIndex((end) => end > -Infinity);
    return { 'margin.l': GAP + Math.max(0, ...texts.map(wide)), 'margin.b': GAP + LINE * lines,
      'xaxis.tickvals': list(across, 'at'), 'xaxis.ticktext': list(across, 'text'),
      'yaxis.tickvals': groups.map((group) => mean(group, 'at')), 'yaxis.ticktext': texts };
  }

  function label(gd) { // Plotly tells of a new size after each change: nothing is changed twice
    const change = labels(gd, metaOf(gd)), texts = (axis) => [gd.layout[axis].ticktext, change[`${axis}.ticktext`]].map(String);
    const same = ['xaxis', 'yaxis'].map(texts).every(([now, then]) => now === then);
    if (!same) together(() => [window.Plotly.relayout(gd, change)]);
  }

  // New figures, tokens and answers come from the program at any time.

  function bind() {
    for (const { gd } of graphs()) {
      if (gd.linked || !gd.on) continue;
      gd.linked = true;
      gd._context.doubleClick = false; // to Plotly two clicks at distant places are one, and show all; see `clicked`
      gd.on('plotly_click', (event) => clicked(gd, event));
      gd.on('plotly_hover', (event) => hover(gd, event));
      gd.on('plotly_unhover', () => { tip?.remove(); cross(gd, null); });
      gd.on('plotly_relayout', (change) => zoomed(gd, change));
      gd.on('plotly_autosize', () => label(gd));
      tip?.remove();
      label(gd);
      gd.closest('.block').setAttribute('role', 'figure');
      gd.closest('.block').setAttribute('aria-labelledby', `${gd.closest('.side').id.replace('side-', '')}-title`);
      grow();
    }
  }
  function watch() {
    const [sides, tokens, live] = ['#sides', '#token-view', '#live'].map(find);
    if (!sides || !tokens || !live) return setTimeout(watch, 50);
    const soon = (work) => { let asked = 0; return () => { asked ||= setTimeout(() => { asked = 0; work(); }, 30); }; };
    new MutationObserver(soon(bind)).observe(sides, { childList: true, subtree: true });
    new MutationObserver(soon(() => { if (pick) show(); })).observe(tokens, { childList: true, subtree: true });
    new MutationObserver(readLive).observe(live, { childList: true, subtree: true, attributes: true, characterData: true });
    bind();
    readLive();
  }
  watch();
})();
