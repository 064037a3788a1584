// For a chosen query: what helped and what hurt, side by side. Groups and classes below.

function showQueries() {
  const found = DATA.queries;
  if (!found) {
    $('to-queries').hidden = true;
    return;
  }
  $('queries').hidden = false;
  const shown = QUERIES.size < found.count ? `; the ${QUERIES.size} of the highest loss can be looked at one by one` : '';
  $('queries-lead').textContent = `Predicted change of the loss if a training point is left out and the model refitted. There are ${plural(found.count, 'query', 'queries')}${shown}.`;
  $('query').append(option(-1, `all ${plural(found.count, 'query', 'queries')}: their mean loss, ${short(found.meanLoss)}`));
  for (let i = 0; i < QUERIES.size; i++) {
    const label = QUERIES.given ? `, ${TARGET} ${QUERIES.words('given', i)}` : '';
    $('query').append(option(i, `${QUERIES.id(i)}${label}, loss ${short(QUERIES.loss[i])}`));
  }
  $('query').addEventListener('change', () => showQuery());
  $('query-back').addEventListener('click', () => step(-1));
  $('query-next').addEventListener('click', () => step(1));
  showQuery();
}

function step(by) {
  const count = QUERIES.size + 1;
  $('query').selectedIndex = ($('query').selectedIndex + by + count) % count;
  showQuery();
}

function showQuery() {
  const i = Number($('query').value);
  const entry = DATA.queries.entries[i + 1];
  eraseWithin($('queries'));
  $('query-card').replaceChildren(i < 0 ? '' : queryCard(i));
  $('helped').replaceChildren(...entry.helped.map(influential));
  $('hurt').replaceChildren(...entry.hurt.map(influential));
  for (const side of ['helped', 'hurt']) if (!entry[side].length) $(side).append(el('li', { class: 'quiet' }, 'no training point does'));
  const bars = [...entry.helped.map(([p, e]) => ['helped', p, e]), ...entry.hurt.map(([p, e]) => ['hurt', p, e]).reverse()];
  const effects = bars.map(([side, place, effect]) => ({ side, effect, name: clipped(POINTS.id(place), 40), words: `point ${clipped(POINTS.id(place), 40)}: ${signed(effect)}` }));
  draw($('effects-chart'), 'effects', { effects }, 'Bars: change of the loss if each of these points is left out.');
}

function queryCard(i) {
  const facts = el('dl', { class: 'numbers' });
  const row = (name, value) => facts.append(el('div', {}, el('dt', {}, name), el('dd', {}, value)));
  if (QUERIES.given) row(TARGET, datum(QUERIES.words('given', i), 60));
  if (QUERIES.predicted) row('predicted', datum(QUERIES.words('predicted', i), 60));
  row('loss', short(QUERIES.loss[i]));
  if (QUERIES.confidence) row('confidence', short(QUERIES.confidence[i]));
  const shown = DATA.queries.looks[i] ? lookOf(DATA.queries.looks[i], QUERIES.id(i)) : '';
  return el('div', { class: 'query card' }, shown, el('div', { class: 'facts' }, el('p', { class: 'labels' }, 'query ', el('b', {}, datum(QUERIES.id(i), 60))), facts));
}

function influential([place, effect, beside]) {
  const label = POINTS.given ? el('span', {}, ` ${TARGET} `, el('b', {}, datum(POINTS.words('given', place), 40))) : '';
  const words = el('p', { class: 'labels' }, el('b', { class: effect > 0 ? 'helped' : 'hurt' }, signed(effect)), el('span', { class: 'quiet' }, ' point '), datum(POINTS.id(place), 40), label);
  const seek = el('button', { type: 'button', class: 'plain', on: { click: () => seekPoint(place) }, 'aria-label': `Decide about point ${clipped(POINTS.id(place), 40)}` }, 'decide');
  const shown = look(place) && { ...look(place), ...beside }; // tokens have another heat beside each query
  return el('li', {}, shown ? lookOf(shown, POINTS.id(place)) : '', el('div', { class: 'facts' }, words), seek);
}

// Take a point of these lists to the list of suspects.
function seekPoint(place) {
  for (const name of ['filter', 'class', 'sort']) $(name).selectedIndex = 0;
  $('search').value = '';
  list.region = null;
  refresh();
  const at = list.matches.indexOf(place);
  turn(Math.floor(at / PAGE));
  focusCard(at % PAGE);
}

function showGroups() {
  const { groups, classes } = DATA;
  if (!groups && !classes) {
    $('to-groups').hidden = true;
    return;
  }
  $('groups').hidden = false;
  if (groups) {
    $('groups-box').hidden = false;
    $('groups-lead').textContent = `Predicted change of the mean loss if a whole group is left out (${groups.order === 'first' ? 'first order' : 'Newton steps on what remains'}): a group above zero helps, one below zero hurts.`;
    const rows = groups.rows.map(([name, effect]) => ({ name: clipped(name, 60), effect, side: effect > 0 ? 'helped' : 'hurt', words: `${clipped(name, 60)}: ${signed(effect)}` }));
    draw($('groups-chart'), 'groups', { groups: rows }, 'Bars: change of the mean loss if each group is left out.');
  }
  if (classes) {
    $('classes-box').hidden = false;
    $('classes-lead').textContent = `Which labels help which queries: the effects of all points of a label, added up, on the loss of a query of a label (a mean over the ${plural(classes.queries, 'query', 'queries')} shown). Blue helps, orange hurts.`;
    const words = POINTS.levels.map((level) => clipped(level, 30));
    const cells = classes.cells.map(([query, train, effect]) => ({ query: words[query], train: words[train], effect, words: `points labelled ${words[train]} on queries labelled ${words[query]}: ${signed(effect)}` }));
    draw($('classes-chart'), 'classes', { cells }, 'Table of colours: labels of training points against labels of queries.');
  }
}

function showMade() {
  for (const [name, words] of DATA.made.rows) $('made-rows').append(el('dt', {}, name), el('dd', {}, datum(words, 2000)));
  for (const command of DATA.made.commands) $('made-rows').append(el('dt', {}, 'command'), el('dd', {}, el('code', {}, datum(command, 400))));
  $('made-rows').append(el('dt', {}, 'training set'), el('dd', {}, el('code', {}, DATA.fingerprint)));
  $('made-measured').textContent = visible(DATA.made.measured);
}
