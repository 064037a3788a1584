// Put the page together.

function showDock() {
  $('undo').addEventListener('click', undone);
  $('export-csv').addEventListener('click', () => download('decisions.csv', asCsv(), 'text/csv'));
  $('export-json').addEventListener('click', () => download('decisions.json', asJson(), 'application/json'));
  $('import').addEventListener('click', () => $('import-file').click());
  $('import-file').addEventListener('change', async (event) => {
    const [file] = event.target.files;
    event.target.value = '';
    if (!file) return;
    try {
      const count = take(await file.text());
      refresh(list.page);
      $('forecast').textContent = `${plural(count, 'decision')} read from ${clipped(file.name, 40)}.`;
    } catch (error) {
      $('forecast').textContent = `Nothing was read from ${clipped(file.name, 40)}: ${clipped(error.message, 160)}.`;
    }
  });
  tally();
}

function lead() {
  const kinds = { class: `labels in ${plural(POINTS.levels.length, 'class', 'classes')}`, number: 'numbers as targets', none: 'targets' };
  const asked = DATA.queries ? `, asked about ${plural(DATA.queries.count, 'query', 'queries')}` : '';
  return `${plural(POINTS.size, 'training point')} with ${kinds[POINTS.kind]}${asked}.`;
}

$('title').textContent = visible(DATA.title);
$('lead').textContent = lead();
restore();
showTrust();
showSuspects();
showQueries();
showGroups();
showMade();
showKeys();
showDock();
performance.mark('ready');
document.documentElement.dataset.ready = 'yes';
