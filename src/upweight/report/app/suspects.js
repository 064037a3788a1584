// Which labels look wrong: a list that is searched, sorted, filtered and paged, and decided about.

const PAGE = 24;
const TARGET = POINTS.kind === 'class' ? 'label' : 'value';
const SORTS = [
  ['influence', 'self-influence', (a, b) => POINTS.influence[b] - POINTS.influence[a]],
  ['loss', 'loss', (a, b) => POINTS.loss[b] - POINTS.loss[a]],
  ...(POINTS.confidence ? [['confidence', 'lowest confidence', (a, b) => POINTS.confidence[a] - POINTS.confidence[b]]] : []),
  ...(POINTS.mean ? [['hurts', 'hurts the queries most', (a, b) => POINTS.mean[a] - POINTS.mean[b]]] : []),
  ['place', 'order in the data', (a, b) => a - b],
];
const FILTERS = [
  ['all', 'all points', () => true],
  ...(POINTS.kind === 'class' ? [['disagrees', 'model disagrees', (i) => POINTS.disagrees(i)]] : []),
  ['open', 'undecided', (i) => !decided.has(i)],
  ['decided', 'decided', (i) => decided.has(i)],
  ['relabel', 'to relabel', (i) => decided.has(i) && decided.get(i).action === 'relabel'],
  ['drop', 'to drop', (i) => decided.has(i) && decided.get(i).action === 'drop'],
  ...(KNOWN.size ? [['known', 'known to be wrong', (i) => KNOWN.has(i)]] : []),
];
const ranked = Uint32Array.from({ length: POINTS.size }, (_, i) => i).sort((a, b) => POINTS.influence[b] - POINTS.influence[a] || a - b);
const rankOf = new Uint32Array(POINTS.size);
ranked.forEach((place, k) => (rankOf[place] = k + 1));

const list = { matches: ranked, page: 0, region: null, at: 0 };

function look(place) {
  return DATA.looks ? DATA.looks.items[place] : undefined;
}

function refresh(page = 0) {
  const words = $('search').value.trim().toLowerCase();
  const [, , admits] = FILTERS.find(([name]) => name === $('filter').value);
  const [sorted, , order] = SORTS.find(([name]) => name === $('sort').value);
  const level = $('class').value === '' ? -1 : Number($('class').value);
  const region = list.region;
  const matches = ranked.filter((i) => {
    if (!admits(i) || (level >= 0 && POINTS.given[i] !== level)) return false;
    if (region && !region.has(i)) return false;
    if (!words) return true;
    return POINTS.id(i).toLowerCase().includes(words) || (POINTS.given && (POINTS.words('given', i).toLowerCase() === words || POINTS.words('predicted', i).toLowerCase() === words)) || searchable(look(i)).includes(words);
  });
  list.matches = sorted === 'influence' ? matches : matches.sort((a, b) => order(a, b) || a - b);
  turn(page);
}

function turn(page) {
  const pages = Math.max(1, Math.ceil(list.matches.length / PAGE));
  list.page = Math.min(Math.max(page, 0), pages - 1);
  const start = list.page * PAGE;
  const places = [...list.matches.slice(start, start + PAGE)];
  eraseWithin($('cards'));
  $('cards').replaceChildren(...places.map(card));
  list.at = 0;
  const total = list.matches.length;
  const of = total === POINTS.size ? plural(total, 'point') : `${plural(total, 'matching point')}, ${POINTS.size.toLocaleString('en')} in all`;
  $('count').textContent = total ? `${(start + 1).toLocaleString('en')}–${(start + places.length).toLocaleString('en')} of ${of}` : 'Nothing matches. Clear the search or choose another filter.';
  pager(pages);
}

function pager(pages) {
  const go = (words, page, label) => el('button', { type: 'button', disabled: page < 0 || page >= pages, 'aria-label': label, on: { click: () => flip(page) } }, words);
  const box = $('pager');
  box.hidden = pages < 2;
  const jump = el('input', { type: 'number', min: 1, max: pages, value: list.page + 1, 'aria-label': 'Page', on: { change: (event) => flip(Number(event.target.value) - 1) } });
  box.replaceChildren(go('«', list.page ? 0 : -1, 'First page'), go('‹', list.page - 1, 'Previous page'), el('label', {}, jump, ` of ${pages.toLocaleString('en')}`), go('›', list.page + 1, 'Next page'), go('»', list.page === pages - 1 ? pages : pages - 1, 'Last page'));
}

function flip(page) {
  if (Number.isNaN(page)) return;
  turn(page);
  $('count').scrollIntoView({ block: 'start' });
}

function card(place) {
  const id = POINTS.id(place);
  const known = KNOWN.has(place) ? el('span', { class: 'chip' }, 'known wrong') : null;
  const node = el('li', { class: 'card', 'data-place': place, tabindex: '-1', 'aria-label': `point ${clipped(id, 40)}` });
  node.append(
    lookOf(look(place), id) || '',
    el('div', { class: 'facts' }, el('p', { class: 'labels' }, labels(place)), el('p', { class: 'id' }, `#${rankOf[place].toLocaleString('en')} · `, datum(id, 40), ' ', known), figures(place)),
    buttons(place),
  );
  paint(node, place);
  return node;
}

// Without looks there is nothing to see but numbers, so an empty look takes no room.
function labels(place) {
  if (!POINTS.given) return '';
  if (POINTS.kind !== 'class') return el('span', {}, el('b', {}, datum(POINTS.words('given', place), 30)), el('span', { class: 'quiet' }, ' given, predicted '), el('b', {}, datum(POINTS.words('predicted', place), 30)));
  const arrow = POINTS.disagrees(place) ? ' → ' : ' or rather ';
  return el('span', {}, el('b', {}, datum(POINTS.words('given', place), 40)), el('span', { class: 'quiet' }, arrow), el('b', { class: POINTS.disagrees(place) ? 'suggested' : 'quiet' }, datum(POINTS.words('suggested', place), 40)), POINTS.disagrees(place) ? '' : el('span', { class: 'quiet' }, '?'));
}

function figures(place) {
  const list = el('dl', { class: 'numbers' });
  const row = (name, value, title) => list.append(el('div', { title }, el('dt', {}, name), el('dd', {}, value)));
  row('self-influence', short(POINTS.influence[place]), 'how much its own loss would rise if it were left out');
  row('loss', short(POINTS.loss[place]), 'of the model on this point');
  if (POINTS.confidence) row('confidence', short(POINTS.confidence[place]), 'probability of the given label');
  if (POINTS.mean) row('if dropped', signed(POINTS.mean[place]), 'change of the mean loss of the queries if it is left out: negative means that it hurts');
  return list;
}

function buttons(place) {
  const box = el('div', { class: 'buttons', role: 'group', 'aria-label': `Decide about point ${clipped(POINTS.id(place), 40)}` });
  const button = (action, words, title) => el('button', { type: 'button', 'data-action': action, 'aria-pressed': 'false', title, on: { click: () => choose(place, action) } }, words);
  box.append(button('keep', 'Keep', `The ${TARGET} is right (c)`));
  if (POINTS.given) {
    box.append(button('relabel', el('span', { class: 'target' }), `Take this ${TARGET} (a)`));
    if (POINTS.kind !== 'class' || POINTS.levels.length > 2) box.append(other(place));
  }
  box.append(button('drop', 'Drop', 'Leave the point out (d)'));
  return box;
}

// Another label than the suggested one.
function other(place) {
  const label = `Another ${TARGET} for point ${clipped(POINTS.id(place), 40)}`;
  const change = (event) => {
    const value = newLabel(place, event.target.value);
    if (event.target.value !== '' && value !== null && !Number.isNaN(value)) choose(place, 'relabel', value, true);
  };
  if (POINTS.kind !== 'class') return el('input', { type: 'number', step: 'any', class: 'other', placeholder: 'other', 'aria-label': label, on: { change } });
  const select = el('select', { class: 'other', 'aria-label': label, on: { change } }, option('', 'other'));
  POINTS.levels.forEach((level, k) => {
    if (k !== POINTS.given[place]) select.append(option(String(level), String(level)));
  });
  return select;
}

function suggestion(place) {
  return POINTS.kind === 'class' ? POINTS.levels[POINTS.suggested[place]] : Number(POINTS.words('suggested', place));
}

function choose(place, action, label = null, chosen = false) {
  const before = decided.get(place);
  if (action === 'relabel' && label === null) label = before && before.action === 'relabel' ? before.label : suggestion(place);
  if (!(chosen && before && before.action === 'relabel' && String(before.label) === String(label))) decide(place, action, label);
  repaint(place);
}

function repaint(place) {
  for (const node of document.querySelectorAll(`.card[data-place="${place}"]`)) paint(node, place);
}

function paint(node, place) {
  const decision = decided.get(place);
  node.classList.toggle('known', KNOWN.has(place));
  for (const action of ['keep', 'relabel', 'drop']) node.classList.toggle('is-' + action, Boolean(decision) && decision.action === action);
  for (const button of node.querySelectorAll('[data-action]')) button.setAttribute('aria-pressed', String(Boolean(decision) && decision.action === button.dataset.action));
  const target = node.querySelector('.target');
  if (target) target.replaceChildren('→ ', datum(decision && decision.action === 'relabel' ? decision.label : suggestion(place), 18));
}

// The map is drawn when it is opened: the first suspects, and a sample of the rest.
function map() {
  const few = POINTS.size <= 1500 ? [...ranked] : [...ranked.slice(0, 1000), ...ranked.slice(1000).filter((_, k, rest) => k % Math.ceil(rest.length / 500) === 0)];
  const points = few.map((place) => ({
    place,
    loss: POINTS.loss[place],
    influence: POINTS.influence[place],
    state: decided.has(place) ? 'decided' : POINTS.disagrees(place) ? 'model disagrees' : 'model agrees',
    words: `point ${clipped(POINTS.id(place), 30)}: self-influence ${short(POINTS.influence[place])}, loss ${short(POINTS.loss[place])}`,
  }));
  draw($('suspects-chart'), 'suspects', { points }, 'Scatter of self-influence against loss, one mark a training point.', (view) => {
    view.addSignalListener('brush', (_, brush) => {
      clearTimeout(map.timer);
      map.timer = setTimeout(() => within(brush), 120);
    });
  });
}

function within(brush) {
  if (!brush || !brush.loss || !brush.influence) list.region = null;
  else {
    const inside = (value, [a, b]) => value >= Math.min(a, b) && value <= Math.max(a, b);
    list.region = new Set([...ranked].filter((i) => inside(POINTS.loss[i], brush.loss) && inside(POINTS.influence[i], brush.influence)));
  }
  refresh();
}

function showSuspects() {
  $('suspects-head').textContent = POINTS.kind === 'class' ? 'Which labels look wrong?' : 'Which points look wrong?';
  $('suspects-lead').textContent = `Training points in the order of self-influence: how much a point’s own loss would rise if it were left out. A high value means that little else in the data argues for its ${TARGET}. Decide with the buttons or the keyboard; decisions stay in this browser until you export them.`;
  if (DATA.looks && DATA.looks.kind === 'tokens') {
    const of = DATA.looks.head.meaning ? ` ${clipped(DATA.looks.head.meaning, 80)}` : '';
    $('suspects-lead').textContent += ` Tokens in blue with a solid line raise${of}, those in orange with a dashed line lower${of ? ' it' : ''}: the thicker the line, the more.`;
  }
  for (const [name, words] of FILTERS) $('filter').append(option(name, words));
  for (const [name, words] of SORTS) $('sort').append(option(name, words));
  $('class').append(option('', 'any'));
  POINTS.levels.forEach((level, k) => $('class').append(option(k, String(level))));
  $('class-box').hidden = POINTS.kind !== 'class';
  $('tools').addEventListener('submit', (event) => event.preventDefault());
  for (const name of ['filter', 'class', 'sort']) $(name).addEventListener('change', () => refresh());
  $('search').addEventListener('input', () => {
    clearTimeout(refresh.timer);
    refresh.timer = setTimeout(refresh, 150);
  });
  $('map').addEventListener('toggle', () => ($('map').open ? map() : erase($('suspects-chart'))));
  if (!DATA.looks) $('cards').classList.add('bare');
  else $('cards').classList.add(DATA.looks.kind);
  refresh();
}
