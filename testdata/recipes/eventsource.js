// Follows a topology by the browser's own EventSource, with a ticket instead of a token in the address. A ticket opens
// one stream: after an error this one is closed, and another opened with a new ticket behind the last number.
// EventSource hears only the types that are named; '/topostream.js' hears all, and tells a refusal from an outage.
export function follow(id, token, types, onEvent) {
  let source;
  let timer;
  let last = '';
  let stopped = false;
  const again = () => {
    source?.close();
    clearTimeout(timer);
    if (!stopped) timer = setTimeout(open, 1000);
  };
  const open = async () => {
    try {
      const headers = { Authorization: `Bearer ${token()}` };
      const answer = await fetch('/api/v1/auth/sse-ticket', { method: 'POST', headers });
      if ([401, 403, 404].includes(answer.status)) return; // final: this token opens nothing
      const { ticket } = await answer.json();
      if (stopped) return;
      if (!ticket) throw new Error(answer.statusText);
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
    stopped = true;
    clearTimeout(timer);
    source?.close();
  };
}
