// Decisions: kept in this browser, undone one by one, exported and imported as CSV or JSON.

const KEY = 'upweight.decisions.' + DATA.fingerprint;
const FORMAT = 'upweight.decisions.1';
const FIELDS = ['train', 'position', 'decision', 'label', 'given'];
const FORMULA = /^[=+\-@\t\r']/;

const decided = new Map();
const history = [];
let told = '';

function restore() {
  try {
    for (const [place, decision] of JSON.parse(localStorage.getItem(KEY) || '[]')) {
      if (place < POINTS.size) decided.set(place, decision);
    }
  } catch (error) {
    told = 'This browser does not keep decisions: export them before you close the page.';
  }
}

function keep() {
  try {
    localStorage.setItem(KEY, JSON.stringify([...decided]));
  } catch (error) {
    told = 'This browser does not keep decisions: export them before you close the page.';
  }
  tally();
}

function newLabel(place, text) {
  if (POINTS.kind !== 'class') return Number(text);
  const level = POINTS.levels.find((known) => spelled(known) === spelled(text));
  return level === undefined ? null : level;
}

// Decide about one point; deciding the same again takes it back.
function decide(place, action, label = null) {
  const before = decided.get(place);
  const same = before && before.action === action && String(before.label) === String(label);
  history.push([[place, before]]);
  if (same) decided.delete(place);
  else decided.set(place, { action, label });
  keep();
  return !same;
}

function undo() {
  const step = history.pop();
  if (!step) return null;
  for (const [place, before] of step) {
    if (before) decided.set(place, before);
    else decided.delete(place);
  }
  keep();
  return step.length ? step[0][0] : null;
}

function tally() {
  const count = { keep: 0, relabel: 0, drop: 0 };
  let change = 0;
  let unknown = 0;
  for (const [place, { action, label }] of decided) {
    count[action] += 1;
    if (action === 'drop' && POINTS.mean) change += POINTS.mean[place];
    if (action === 'relabel') {
      const expected = RELABELLED.has(place) && String(label) === POINTS.words('suggested', place);
      if (expected) change += RELABELLED.get(place);
      else unknown += 1;
    }
  }
  const total = decided.size;
  $('tally').textContent = total
    ? `${plural(total, 'decision')}: ${count.keep} keep, ${count.relabel} relabel, ${count.drop} drop`
    : 'No decisions yet';
  let words = told;
  if (!words && POINTS.mean && count.relabel + count.drop) {
    words = `One by one they are predicted to ${change < 0 ? 'lower' : 'raise'} the mean loss by ${short(Math.abs(change))}` + (unknown ? `, without ${plural(unknown, 'relabelling')} not predicted here` : '');
  }
  $('forecast').textContent = words;
  $('undo').disabled = !history.length;
  $('export-csv').disabled = $('export-json').disabled = !total;
}

function rows() {
  return [...decided].sort((a, b) => a[0] - b[0]).map(([place, { action, label }]) => ({
    train: POINTS.name(place),
    position: place,
    decision: action,
    label,
    given: POINTS.given ? POINTS.words('given', place) : null,
  }));
}

function cell(value) {
  if (value === null || value === undefined) return '';
  let text = String(value);
  if (typeof value === 'string' && FORMULA.test(text) && (text.trim() === '' || Number.isNaN(Number(text)))) text = "'" + text;
  return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}

function asCsv() {
  return [FIELDS, ...rows().map((row) => FIELDS.map((field) => row[field]))].map((line) => line.map(cell).join(',') + '\r\n').join('');
}

function asJson() {
  return JSON.stringify({ format: FORMAT, fingerprint: DATA.fingerprint, decisions: rows() }, null, 1) + '\n';
}

function download(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  el('a', { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

// A CSV table as rows of texts, with quoted cells that hold commas, quotes and line ends.
function fromCsv(text) {
  const lines = [[]];
  const cells = /("(?:[^"]|"")*"|[^",\r\n][^,\r\n]*|)(,|\r\n|\n|\r|$)/y;
  while (cells.lastIndex < text.length) {
    const [, raw, end] = cells.exec(text) || [];
    if (raw === undefined) throw new Error('a quote is not closed');
    let value = raw.startsWith('"') ? raw.slice(1, -1).replaceAll('""', '"') : raw;
    if (/^'[=+\-@\t\r']/.test(value)) value = value.slice(1);
    lines[lines.length - 1].push(value);
    if (end !== ',') lines.push([]);
  }
  const [head, ...body] = lines.filter((line) => line.length > 1);
  if (!head || !head.includes('train') || !head.includes('decision')) throw new Error('the columns train and decision are missing');
  return body.map((line) => Object.fromEntries(head.map((name, k) => [name, line[k] === undefined ? '' : line[k]])));
}

function fromJson(text) {
  const found = JSON.parse(text);
  if (found.format !== FORMAT) throw new Error('its format is not ' + FORMAT);
  if (found.fingerprint && found.fingerprint !== DATA.fingerprint) throw new Error('it is about another training set, ' + found.fingerprint);
  return found.decisions;
}

// Decisions of a file join those made here; all of them or, if one cannot be read, none.
function take(text) {
  text = text.replace(/^\ufeff/, '');
  const found = /^\s*[{[]/.test(text) ? fromJson(text) : fromCsv(text);
  const places = new Map();
  for (let i = 0; i < POINTS.size; i++) places.set(POINTS.id(i), i);
  const read = found.map((row) => {
    const named = spelled(row.train);
    const at = row.position !== null && row.position !== '' && row.position !== undefined ? Number(row.position) : places.get(named);
    if (at === undefined || !(at < POINTS.size) || POINTS.id(at) !== named) throw new Error('no point is called ' + clipped(named, 40));
    if (!['keep', 'relabel', 'drop'].includes(row.decision)) throw new Error('the decision ' + clipped(row.decision, 40) + ' is unknown');
    const label = row.decision === 'relabel' ? newLabel(at, row.label) : null;
    if (row.decision === 'relabel' && (label === null || Number.isNaN(label))) throw new Error('the label ' + clipped(row.label, 40) + ' is unknown');
    return [at, { action: row.decision, label }];
  });
  history.push(read.map(([at]) => [at, decided.get(at)]));
  for (const [at, decision] of read) decided.set(at, decision);
  keep();
  return read.length;
}
