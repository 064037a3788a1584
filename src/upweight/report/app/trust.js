// Can I trust this: the verdict in words, and what really refitting said.

const LIGHTS = { good: ['✓', 'good'], care: ['!', 'with care'], bad: ['✕', 'bad'] };

function light(name) {
  const [sign, words] = LIGHTS[name];
  return el('span', { class: 'light ' + name }, el('span', { 'aria-hidden': 'true' }, sign), el('span', { class: 'hidden' }, words + ': '));
}

function showTrust() {
  $('verdict').append(light(DATA.trust.light), DATA.trust.headline);
  for (const [tone, name, words] of DATA.trust.findings) {
    $('findings').append(el('li', {}, light(tone), el('div', {}, el('b', {}, name), ' ', datum(words, 2000))));
  }
  showCalibration();
}

function showCalibration() {
  const found = DATA.calibration;
  if (!found) return;
  $('calibration').hidden = false;
  const predicted = column(found.predicted);
  const refitted = column(found.refitted);
  const points = [];
  let low = Infinity;
  let high = -Infinity;
  for (let i = 0; i < predicted.length; i++) {
    const cell = i * found.step;
    const train = found.train[cell % found.train.length];
    const query = found.query[Math.floor(cell / found.train.length)];
    const words = `without point ${clipped(train, 30)}, query ${clipped(query, 30)}: predicted ${signed(predicted[i])}, refitted ${signed(refitted[i])}`;
    points.push({ predicted: predicted[i], refitted: refitted[i], words });
    low = Math.min(low, predicted[i], refitted[i]);
    high = Math.max(high, predicted[i], refitted[i]);
  }
  draw($('calibration-chart'), 'calibration', { points, line: [{ at: low }, { at: high }] }, 'Scatter of the change after really refitting against the predicted change; on the dashed line they agree.');
  $('calibration-words').append(
    `Each dot is one of ${plural(found.train.length, 'training point')} really left out and one of ${plural(found.query.length, 'query', 'queries')}: the change of ${found.measure}, in `,
    datum(found.unit, 40),
    '. On the dashed line prediction and refit agree.',
  );
  for (const [name, value, meaning] of found.figures) {
    $('calibration-figures').append(el('div', { title: meaning }, el('dt', {}, name), el('dd', {}, value)));
  }
}
