export function Inspector() {
  return <aside class="inspector" aria-label="Inspector" />;
}
