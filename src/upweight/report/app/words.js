// Elements are made here and nowhere else, and data become text nodes: nothing is ever parsed as markup.

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'on') for (const [event, call] of Object.entries(value)) node.addEventListener(event, call);
    else if (name === 'class') node.className = value;
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ''));
  return node;
}

const $ = (id) => document.getElementById(id);

// Control characters and marks that turn the direction of text are shown by their code, not obeyed.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;

function visible(text) {
  return String(text).replace(HIDDEN, (mark) => '⟨U+' + mark.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0') + '⟩');
}

function clipped(text, length = 80) {
  const shown = visible(text);
  return shown.length > length ? shown.slice(0, length - 1) + '…' : shown;
}

// Data in a sentence, kept apart from the direction of the words around it.
function datum(text, length = 80) {
  return el('bdi', {}, clipped(text, length));
}

function option(value, words) {
  return el('option', { value }, clipped(words, 60));
}

function plural(count, one, many = one + 's') {
  return `${count.toLocaleString('en')} ${count === 1 ? one : many}`;
}
