import { useSignal } from '@preact/signals';
import { identityOf } from '../state/session.ts';
import { useApp } from './context.ts';
import { Dialog } from './dialog.tsx';

/** Asks for a token when the server wants one, or when somebody renews theirs before it ends. */
export function SignIn() {
  const { session, live, route, signature } = useApp();
  const text = useSignal('');
  const problem = useSignal('');
  const connection = live.connection.value;
  const unauthorized = connection.state === 'refused' && connection.status === 401;
  const asked = route.current.value.panel === 'signin';
  const wanted = session.wanted.value ?? (unauthorized ? 'sign in to see anything' : null);
  if (!asked && wanted === null) return null;
  const close = (): void => route.go({ panel: '' }, true);
  const submit = (event: Event): void => {
    event.preventDefault();
    const token = text.value.trim().replace(/^Bearer\s+/i, '');
    const identity = identityOf(token);
    if (!identity) problem.value = 'This is no token: one has three parts with dots between.';
    else if (identity.expires !== null && identity.expires <= Date.now() + live.offset.value) {
      problem.value = 'This token has ended.';
    } else {
      text.value = problem.value = '';
      if (asked) close();
      session.signIn(token);
    }
  };
  const identity = session.identity.value;
  const left = identity?.expires ? identity.expires - live.offset.value - signature.clock.value : null;
  return (
    <Dialog label="Sign in" class="signin" stays={wanted !== null} onClose={close}>
      <form onSubmit={submit}>
        <h2>{identity && wanted === null ? 'Another token' : identity ? 'The token has ended' : 'Sign in'}</h2>
        {session.wanted.value && <p role="alert">The server says: {session.wanted.value}.</p>}
        {identity && <p>
          Now: {identity.subject || 'nameless'}, {identity.role}
          {left !== null && left > 0 && `, for ${Math.ceil(left / 60_000)} min more`}.
        </p>}
        <label for="signin-token">Token</label>
        <textarea id="signin-token" rows={4} autofocus spellcheck={false} autocomplete="off" value={text.value}
          aria-invalid={problem.value !== ''} aria-describedby="signin-problem"
          onInput={(event) => { text.value = event.currentTarget.value; problem.value = ''; }}
          onKeyDown={(event) => { if (event.key === 'Enter') submit(event); }} />
        <p id="signin-problem" class="problem" role="alert">{problem.value}</p>
        <p class="quiet">
          It is kept for this tab alone, until the tab is closed. <code>topostream token</code> makes one.
        </p>
        <div class="buttons">
          <button type="submit" class="primary">Go on</button>
          {wanted !== null && <button type="button" class="quiet-button" onClick={() => {
            session.signIn(''); // a cookie speaks from now on; what is staged stays, as with another token
            window.location.reload();
          }}>
            The application has signed me in: try again
          </button>}
          {wanted === null && <button type="button" class="quiet-button" onClick={close}>Cancel</button>}
        </div>
      </form>
    </Dialog>
  );
}
