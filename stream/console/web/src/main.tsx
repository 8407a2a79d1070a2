import { render } from 'preact';
import './style/fonts.css';
import './style/tokens.css';
import './style/base.css';
import { createApp } from './app.ts';
import { keepFocus } from './state/focus.ts';
import { expose } from './state/window.ts';
import { AppContext } from './ui/context.ts';
import { Shell } from './ui/shell.tsx';

performance.mark('topostream.app'); // for measurements, as the marks of the stream, the list and its rows
const app = createApp(window);
expose(window, app);
keepFocus(window);
render(<AppContext.Provider value={app}><Shell /></AppContext.Provider>, document.getElementById('console')!);
