import '../style/edit.css';
import { Archetypes } from './archetypes.tsx';
import { useApp } from './context.ts';
import { EditDialog } from './editdialog.tsx';
import { ContextMenu } from './menu.tsx';
import { Dismiss, giveRoom, Tray } from './tray.tsx';

/** What editing lays over the canvas: the palette, the tray, the menu and the dialog. */
export function Editing() {
  const { editable, editing: { edit } } = useApp();
  const may = editable.value === true;
  const something = edit.staged.value.ops.length > 0;
  return (
    <div class="editing">
      {may && <Archetypes />}
      {may || something ? <Tray /> : <WhyNot />}
      <ContextMenu />
      <EditDialog />
    </div>
  );
}

/** In the tray's place: why an editor cannot edit now, or why a key was refused. The past has a band of its own. */
function WhyNot() {
  const { editable, route, session, shown, editing: { edit } } = useApp();
  const notice = edit.notice.value;
  const tells = shown.value !== null && session.role.value !== 'viewer' && route.current.value.at === null;
  const said = notice ?? (tells && editable.value !== true ? editable.value : null);
  return said && (
    <section ref={giveRoom} class="edit-why-not" aria-label="Editing">
      <p role="status">{said} {notice && <Dismiss edit={edit} />}</p>
    </section>
  );
}
