import { useEffect, useState } from 'preact/hooks';
import { useApp } from './context.ts';
import { Dialog } from './dialog.tsx';

/** The licences of what the page holds; the file is made with the page. */
export function Licences() {
  const { route } = useApp();
  const [text, setText] = useState('Loading…');
  useEffect(() => {
    fetch('/console/LICENSES.txt').then((answer) => answer.ok ? answer.text() : 'The server has no such file.')
      .catch(() => 'The server does not answer.').then(setText);
  }, []);
  return (
    <Dialog label="Licences" class="licences" onClose={() => route.go({ panel: '' }, true)}>
      <h2>Licences</h2>
      <pre tabIndex={0}>{text}</pre>
    </Dialog>
  );
}
