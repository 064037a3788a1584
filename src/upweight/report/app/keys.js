// The keyboard: walk through the cards, decide, undo.

const KEYS = [
  ['j or ↓, k or ↑', 'next card, previous card'],
  ['a', 'accept: take the suggested label'],
  ['1 to 9, 0', 'take the first to the tenth label'],
  ['c', 'correct: keep as it is'],
  ['d', 'drop'],
  ['u', 'undo'],
  ['n, p', 'next page, previous page'],
  ['/', 'search'],
];

function focusCard(at) {
  const cards = $('cards').children;
  if (!cards.length) return;
  list.at = Math.min(Math.max(at, 0), cards.length - 1);
  cards[list.at].focus({ preventScroll: true });
  cards[list.at].scrollIntoView({ block: 'nearest' });
}

function current() {
  const card = document.activeElement && document.activeElement.closest('#cards > .card');
  if (card) list.at = [...$('cards').children].indexOf(card);
  return $('cards').children[list.at] ? Number($('cards').children[list.at].dataset.place) : null;
}

function walk(by) {
  const focused = document.activeElement && document.activeElement.closest('#cards > .card');
  current();
  const next = focused ? list.at + by : list.at;
  if (next >= $('cards').children.length && (list.page + 1) * PAGE < list.matches.length) {
    turn(list.page + 1);
    focusCard(0);
  } else if (next < 0 && list.page > 0) {
    turn(list.page - 1);
    focusCard(PAGE - 1);
  } else focusCard(next);
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest('input, select, textarea')) return;
  const place = current();
  const choosing = (action, label = null) => {
    if (place === null) return;
    choose(place, action, label);
    if (decided.has(place)) walk(1);
  };
  const calls = {
    j: () => walk(1),
    ArrowDown: () => walk(1),
    k: () => walk(-1),
    ArrowUp: () => walk(-1),
    c: () => choosing('keep'),
    d: () => choosing('drop'),
    a: () => POINTS.given && choosing('relabel', place === null ? null : suggestion(place)),
    u: () => undone(),
    n: () => flip(list.page + 1),
    p: () => flip(list.page - 1),
    '/': () => $('search').focus(),
  };
  const digit = /^[0-9]$/.test(event.key) ? (Number(event.key) + 9) % 10 : -1;
  if (digit >= 0 && POINTS.kind === 'class' && digit < POINTS.levels.length && place !== null && POINTS.given[place] !== digit) {
    choosing('relabel', POINTS.levels[digit]);
  } else if (calls[event.key]) {
    event.preventDefault();
    calls[event.key]();
  }
}

function undone() {
  const place = undo();
  if (place !== null) for (const node of $('cards').children) paint(node, Number(node.dataset.place));
}

function showKeys() {
  for (const [key, words] of KEYS) $('keys').append(el('dt', {}, el('kbd', {}, key)), el('dd', {}, words));
  document.addEventListener('keydown', pressed);
}
