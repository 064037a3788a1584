// The page's data: read once from JSON, columns unpacked into typed arrays.

const DATA = JSON.parse(document.getElementById('data').textContent);
const CHARTS = JSON.parse(JSON.parse(document.getElementById('charts').textContent).charts);

function bytes(text) {
  const raw = atob(text);
  const out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out.buffer;
}

function column(packed) {
  if (!packed) return null;
  const [kind, text] = Object.entries(packed)[0];
  return new { f4: Float32Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array }[kind](bytes(text));
}

// A name as a file can hold it: half of a character that stands alone is replaced.
function spelled(text) {
  return String(text).replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, '\ufffd');
}

// Columns of the training points, or of the queries: .id(i), .given(i), .predicted(i), .suggested(i) as words.
function table(packed) {
  const ids = packed.ids.names;
  const size = ids ? ids.length : packed.ids.count;
  const columns = {};
  for (const name of ['given', 'predicted', 'suggested', 'loss', 'confidence', 'influence', 'mean']) {
    columns[name] = column(packed[name]);
  }
  const word = (values, i) => {
    if (!values) return '';
    return packed.kind === 'class' ? String(packed.levels[values[i]]) : number(values[i]);
  };
  return {
    ...columns,
    size,
    kind: packed.kind,
    levels: packed.levels,
    name: (i) => (ids ? ids[i] : i),
    id: (i) => spelled(ids ? ids[i] : i),
    words: (what, i) => word(columns[what], i),
    disagrees: (i) => packed.kind === 'class' && columns.predicted[i] !== columns.given[i],
  };
}

// Six digits at most, without an exponent where that is readable.
function number(value) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? 'nan' : value > 0 ? '∞' : '−∞';
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-4 || size >= 1e7) ? value.toExponential(2) : String(Number(value.toPrecision(6)));
  return text;
}

function short(value, digits = 3) {
  if (!Number.isFinite(value)) return number(value);
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-4 || size >= 1e6) ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
  return text.replaceAll('-', '−');
}

function signed(value) {
  return (value > 0 ? '+' : '') + short(value);
}

const POINTS = table(DATA.points);
const QUERIES = DATA.queries ? table(DATA.queries) : null;
const KNOWN = new Set(column(DATA.points.known) || []);
const RELABELLED = new Map();
if (DATA.points.relabelled) {
  const at = column(DATA.points.relabelled.at);
  const effect = column(DATA.points.relabelled.effect);
  at.forEach((place, k) => RELABELLED.set(place, effect[k]));
}
