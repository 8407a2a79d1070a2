import '../style/scrub.css';
import { useApp } from './context.ts';

/** In the inspector of a mutation or an event: the button that undoes it, and why it cannot. */
export function RevertButton() {
  const { revert, session } = useApp();
  const possible = revert.possible.value;
  if (!revert.selected.value || session.role.value === 'viewer') return null;
  return (
    <div class="revert">
      <button type="button" class="button" disabled={possible !== true} onClick={() => void revert.run()}>
        Revert
      </button>
      <span role="status">{revert.said.value ?? (possible === true ? 'Stages what undoes it.' : possible)}</span>
    </div>
  );
}
