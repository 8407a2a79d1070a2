export function List() {
  return <nav class="list" aria-label="Topologies" />;
}
