import '../style/edit.css';
import { Archetypes } from './archetypes.tsx';
import { useApp } from './context.ts';
import { EditDialog } from './editdialog.tsx';
import { ContextMenu } from './menu.tsx';
import { Tray } from './tray.tsx';

/** What editing lays over the canvas: the palette, the tray, the menu and the dialog. */
export function Editing() {
  const { editable, editing: { edit } } = useApp();
  const may = editable.value === true;
  const something = edit.staged.value.ops.length > 0;
  return (
    <div class="editing">
      {may && <Archetypes />}
      {(may || something) && <Tray />}
      <ContextMenu />
      <EditDialog />
    </div>
  );
}
