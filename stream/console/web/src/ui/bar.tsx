export function Bar() {
  return <header class="bar" aria-label="Connection" />;
}
