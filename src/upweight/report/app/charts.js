// Charts: compiled Vega specifications, drawn through the interpreter that needs no code from text.

const INK_VARIABLES = { ink: '--ink', quiet: '--quiet', line: '--line', helped: '--helped', hurt: '--hurt', accent: '--accent', surface: '--middle' };
const drawn = new Map();

const refusing = {
  load: () => Promise.reject(new Error('this page loads nothing')),
  sanitize: () => Promise.reject(new Error('this page loads nothing')),
  http: () => Promise.reject(new Error('this page loads nothing')),
  file: () => Promise.reject(new Error('this page loads nothing')),
};

// A specification in the colours of the theme.
function inked(name) {
  const style = getComputedStyle(document.documentElement);
  let text = JSON.stringify(CHARTS.specs[name]);
  for (const [ink, code] of Object.entries(CHARTS.inks)) {
    text = text.split(code).join(style.getPropertyValue(INK_VARIABLES[ink]).trim());
  }
  return JSON.parse(text);
}

// Draw a chart into a box; called again it replaces the old one. `ready` is given the view.
function draw(box, name, data, label, ready) {
  erase(box);
  const view = new vega.View(vega.parse(inked(name), {}, { ast: true }), {
    expr: vega.expressionInterpreter,
    loader: refusing,
    renderer: 'svg',
    hover: true,
    logLevel: vega.Error,
  });
  for (const [set, rows] of Object.entries(data)) view.data(set, rows);
  box.setAttribute('role', 'img');
  box.setAttribute('aria-label', label);
  view.width(Math.max(160, box.clientWidth)).initialize(box).runAsync();
  drawn.set(box, { view, again: () => draw(box, name, data, label, ready) });
  if (ready) ready(view);
  return view;
}

function erase(box) {
  if (!drawn.has(box)) return;
  drawn.get(box).view.finalize();
  drawn.delete(box);
  box.replaceChildren();
}

// Charts of cards that are gone are let go.
function eraseWithin(root) {
  for (const box of [...drawn.keys()]) if (root.contains(box)) erase(box);
}

function redraw() {
  for (const { again } of [...drawn.values()]) again();
}

let width = document.documentElement.clientWidth;
window.addEventListener('resize', () => {
  if (document.documentElement.clientWidth === width) return;
  width = document.documentElement.clientWidth;
  for (const [box, { view }] of drawn) view.width(Math.max(160, box.clientWidth)).runAsync();
});

function dark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
}

$('theme').addEventListener('click', () => {
  document.documentElement.dataset.theme = dark() ? 'light' : 'dark';
  redraw();
});
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
