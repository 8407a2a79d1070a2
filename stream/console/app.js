// Shows one topology's stream. EventSource wants each event's name beforehand, and a topology's events may have any name; so this
// page reads the stream itself, as the WHATWG HTML standard (section 9.2) says, and reconnects as EventSource does.
'use strict';

const $ = (id) => document.getElementById(id);
const shown = 500;
const topostream = (window.topostream = { state: 'closed', topology: null, lastSeq: null, events: [] });
let current = new AbortController(); // a newer open() ends the older one's stream

function setState(state) {
  topostream.state = state;
  $('state').textContent = state;
  $('state').dataset.state = state;
}

function show(event) {
  let body;
  try { body = JSON.parse(event.data); } catch { return; }
  if (event.id) { topostream.lastSeq = Number(event.id); $('seq').textContent = event.id; }
  if (event.type === 'snapshot') {
    $('snapshot').textContent = JSON.stringify(body, null, 2);
    $('mutations').replaceChildren();
    for (const m of body.in_flight) showMutation(m.id, m.op, m.payload, m.state, m.reason);
    return;
  }
  if (body.journaled && event.type.startsWith('mutation.')) {
    const state = { enqueued: 'pending', requeued: 'pending' }[event.type.slice(9)] || event.type.slice(9);
    showMutation(body.payload.mutation_id, body.payload.op, body.payload.payload, state, body.payload.reason);
  }
  topostream.events.push({ id: event.id, type: event.type, body });
  if (topostream.events.length > shown) topostream.events.shift();
  const li = document.createElement('li');
  li.dataset.seq = event.id || '';
  li.dataset.type = event.type;
  if (!body.journaled) li.className = 'raw';
  const name = document.createElement('b');
  name.textContent = event.type;
  li.append(body.journaled ? event.id : 'raw', name, JSON.stringify(body.payload));
  $('events').prepend(li);
  if ($('events').children.length > shown) $('events').lastChild.remove();
  $('count').textContent = Number($('count').textContent) + 1;
}

// showMutation moves a mutation's row to a state, or makes the row.
function showMutation(id, op, payload, state, reason) {
  let row = document.getElementById('m-' + id);
  if (!row) {
    row = document.createElement('tr');
    row.id = 'm-' + id;
    row.append(...[0, 1, 2, 3].map(() => document.createElement('td')));
    $('mutations').prepend(row);
    if ($('mutations').children.length > shown) $('mutations').lastChild.remove();
  }
  const cells = row.children;
  cells[0].textContent = op;
  if (payload !== undefined) cells[1].textContent = JSON.stringify(payload);
  cells[2].textContent = state;
  cells[2].dataset.state = state;
  cells[3].textContent = reason || '';
}

// Examples of each op's payload, to begin with.
const examples = {
  add_lan: { name: 'lan-1' },
  remove_lan: { name: 'lan-1' },
  update_lan: { name: 'lan-1', x: 10, y: 20 },
  add_decky: { name: 'web-1', lan: 'lan-1', services: ['ssh', 'http'] },
  attach_decky: { decky: 'web-1', lan: 'lan-2' },
  detach_decky: { decky: 'web-1', lan: 'lan-2' },
  remove_decky: { decky: 'web-1' },
  update_decky: { decky: 'web-1', services: ['ssh'] },
};

function suggest() { $('payload').value = JSON.stringify(examples[$('op').value]); }

// enqueue posts the form. Each click is a mutation of its own.
async function enqueue(e) {
  e.preventDefault();
  $('answer').textContent = '';
  let payload;
  try { payload = JSON.parse($('payload').value); } catch (err) { $('answer').textContent = 'payload: ' + err.message; return; }
  try {
    const response = await ask('/api/v1/topologies/' + encodeURIComponent($('topology').value) + '/mutations', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', ...authorization() },
      body: JSON.stringify({ op: $('op').value, payload }),
    });
    const body = await response.json();
    $('answer').textContent = response.ok ? 'queued: ' + body.mutation_id : response.status + ': ' + body.detail;
  } catch (err) { $('answer').textContent = err.message; }
}

// read calls back for each event of a response, and with each reconnection time.
async function read(response, onEvent, onRetry) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '', type = '', data = null, id = '';
  const line = (l) => {
    if (l === '') {
      if (data !== null) onEvent({ type: type || 'message', data, id });
      type = ''; data = null; id = '';
      return;
    }
    const i = l.indexOf(':');
    if (i === 0) return;
    const field = i < 0 ? l : l.slice(0, i);
    const value = i < 0 ? '' : l.slice(i + 1).replace(/^ /, '');
    if (field === 'event') type = value;
    else if (field === 'data') data = data === null ? value : data + '\n' + value;
    else if (field === 'id') id = value;
    else if (field === 'retry' && /^[0-9]+$/.test(value)) onRetry(Number(value));
  };
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    lines.forEach(line);
  }
}

const crowded = 'No answer yet. Over HTTP/1.1 a browser opens six connections to one address, and each tab of this page holds one: close another tab.';

// ask fetches, and says after 5 s what may be in the way.
async function ask(path, options) {
  const late = setTimeout(() => { $('message').textContent = crowded; }, 5000);
  try {
    return await fetch(path, options);
  } finally {
    clearTimeout(late);
    if ($('message').textContent === crowded) $('message').textContent = '';
  }
}

// authorization is empty where there is no token: then a cookie may speak for the page. A token goes into a header, never into an address.
function authorization() { return $('token').value ? { Authorization: 'Bearer ' + $('token').value } : {}; }

// forget empties the page for another topology.
function forget(topology) {
  topostream.topology = topology;
  topostream.lastSeq = null;
  topostream.events = [];
  $('events').replaceChildren();
  $('count').textContent = '0';
  $('seq').textContent = '–';
  $('snapshot').textContent = 'none yet';
}

// open follows a topology. The one that is shown already goes on after its last seq, with whatever token there is now.
async function open(topology) {
  current.abort();
  const mine = (current = new AbortController()).signal;
  let retry = 3000, failures = 0, expired = false;
  if (topology !== topostream.topology) forget(topology);
  while (!mine.aborted) {
    setState('connecting');
    let pause = 0;
    try {
      const headers = { Accept: 'text/event-stream', ...authorization() };
      if (topostream.lastSeq !== null) headers['Last-Event-ID'] = String(topostream.lastSeq);
      const response = await ask('/api/v1/topologies/' + encodeURIComponent(topology) + '/events', { headers, cache: 'no-store', signal: mine });
      if (mine.aborted) return;
      if (!response.ok) {
        const problem = await response.json().catch(() => ({}));
        if (mine.aborted) return;
        $('message').textContent = response.status === 401 && expired
          ? 'The token has expired: give a new one and press Open. The stream goes on where it was.'
          : response.status + ': ' + (problem.detail || response.statusText);
        if ([401, 403, 404].includes(response.status)) break;
        pause = Number(response.headers.get('Retry-After')) * 1000;
      } else {
        failures = 0;
        $('message').textContent = '';
        setState('open');
        await read(response, (event) => {
          if (mine.aborted) return;
          if (event.type === 'token_expired') expired = true; // a cookie may have been renewed: try, and see
          show(event);
        }, (ms) => { retry = ms; });
      }
    } catch { failures++; /* the network: try again */ }
    if (mine.aborted) return;
    setState('connecting');
    pause = Math.max(pause, Math.min(retry * 2 ** Math.max(failures - 1, 0), 30000));
    await new Promise((done) => setTimeout(done, pause * (0.75 + Math.random() / 2)));
  }
  if (!mine.aborted) setState('closed');
}

$('op').append(...Object.keys(examples).map((op) => new Option(op)));
$('op').addEventListener('change', suggest);
suggest();
$('enqueue').addEventListener('submit', enqueue);

// readFragment reads what the fragment gives, and leaves no token in the address bar or in the history.
function readFragment() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (given.get('topology')) $('topology').value = given.get('topology');
  if (given.has('token')) {
    $('token').value = given.get('token');
    given.delete('token');
    history.replaceState(null, '', given.size ? '#' + given : location.pathname + location.search);
  }
  if ($('token').value && $('topology').value) open($('topology').value);
}

$('open').addEventListener('submit', (e) => {
  e.preventDefault();
  open($('topology').value);
});
addEventListener('hashchange', readFragment);
readFragment();
