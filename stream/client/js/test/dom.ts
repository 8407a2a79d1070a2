// A document for React, and nothing else of a browser: fetch stays Node's. Import it before react-dom.
import { Window } from 'happy-dom';

const window = new Window();
const { document, HTMLIFrameElement, navigator } = window;
Object.assign(globalThis, { window, document, HTMLIFrameElement, navigator, IS_REACT_ACT_ENVIRONMENT: true });
