// Follows a topology by the browser's own EventSource, with a ticket instead of a token in the address. A ticket opens
// one stream: after an error this one is closed, and another opened with a new ticket behind the last number.
// EventSource hears only the types that are named; '/topostream.js' hears all, and tells a refusal from an outage.
export function follow(id, token, types, onEvent) {
  let source;
  let timer;
  let last = '';
  const again = () => {
    source?.close();
    clearTimeout(timer);
    timer = setTimeout(open, 1000);
  };
  const open = async () => {
    try {
      const headers = { Authorization: `Bearer ${token()}` };
      const answer = await fetch('/api/v1/auth/sse-ticket', { method: 'POST', headers });
      const { ticket } = await answer.json();
      source = new EventSource(`/api/v1/topologies/${id}/events?ticket=${ticket}&last_event_id=${last}`);
    } catch {
      again();
      return;
    }
    source.onerror = again;
    for (const type of types) {
      source.addEventListener(type, (event) => {
        last = event.lastEventId || last;
        onEvent(type, JSON.parse(event.data));
      });
    }
  };
  open();
  return () => {
    clearTimeout(timer);
    source?.close();
  };
}
