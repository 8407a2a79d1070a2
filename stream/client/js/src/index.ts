export { applyGraph } from './graph.ts';
export { TopologyStream, RefusedError, type Options, type Listeners } from './stream.ts';
export type * from './types.ts';
