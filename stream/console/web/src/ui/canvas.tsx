export function Canvas() {
  return <main class="canvas" aria-label="Graph" />;
}
