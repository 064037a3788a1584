// How a point looks: a picture, words, tokens, a row of a table, a series.

function lookOf(look, name) {
  const head = DATA.looks ? DATA.looks.head : {};
  if (!look) return el('p', { class: 'look none' }, 'not on this page');
  if (look.broken !== undefined) return el('p', { class: 'look none' }, 'cannot be shown: ', datum(look.broken, 120));
  if (look.src !== undefined) return picture(look.src, name);
  if (look.text !== undefined) return scrolled(el('p', { class: 'look text', dir: 'auto' }, visible(look.text), left(look.left, 'character')));
  if (look.tokens) return tokens(look);
  if (look.cells) return cells(look.cells, head);
  if (look.series) return sparkline(look.series, name);
  return null;
}

// A long text scrolls inside its box; then the keyboard must reach it.
function scrolled(node) {
  requestAnimationFrame(() => {
    if (node.scrollHeight > node.clientHeight + 1) node.tabIndex = 0;
  });
  return node;
}

function left(count, what) {
  return count ? el('span', { class: 'quiet' }, ` … ${plural(count, 'more ' + what)}`) : null;
}

function picture(src, name) {
  const image = el('img', { class: 'look picture', alt: 'point ' + clipped(name, 40), loading: 'lazy', decoding: 'async' });
  image.addEventListener('error', () => image.replaceWith(el('p', { class: 'look none' }, 'broken picture')));
  image.addEventListener('load', () => image.classList.toggle('small', image.naturalWidth <= 40));
  if (/^data:image\/(png|webp);base64,/.test(src)) image.src = src;
  return image;
}

// Colour and the thickness of the underline say the same number, so that neither is needed alone.
function tokens(look) {
  const line = el('p', { class: 'look text tokens', dir: 'auto' });
  look.tokens.forEach((token, k) => {
    const heat = look.heat && look.top ? look.heat[k] / look.top : 0;
    const level = Math.min(4, Math.ceil(Math.abs(heat) * 4 - 1e-9));
    const tone = level ? ` ${heat > 0 ? 'up' : 'down'} h${level}` : '';
    line.append(el('span', { class: 'token' + tone, title: look.heat ? signed(look.heat[k]) : null }, visible(token)), ' ');
  });
  line.append(left(look.left, 'token') || '');
  return scrolled(line);
}

function cells(values, head) {
  const list = el('dl', { class: 'look cells' });
  values.forEach((value, k) => list.append(el('div', {}, el('dt', {}, datum(head.columns ? head.columns[k] : k, 30)), el('dd', {}, datum(value, 60)))));
  if (head.left) list.append(el('div', {}, el('dt', {}, ''), el('dd', {}, `… ${plural(head.left, 'more column')}`)));
  return list;
}

function sparkline(channels, name) {
  const box = el('div', { class: 'look series' });
  const series = channels.flatMap((values, channel) => values.map((value, step) => ({ step, value, channel })));
  requestAnimationFrame(() => box.isConnected && draw(box, 'series', { series }, 'series of point ' + clipped(name, 40)));
  return box;
}

// Words to search in; made once, when somebody searches.
function searchable(look) {
  if (!look) return '';
  if (look.text !== undefined) return look.text.toLowerCase();
  if (look.tokens) return look.tokens.join(' ').toLowerCase();
  return look.cells ? look.cells.join(' ').toLowerCase() : '';
}
