// The client without tabs that share a stream.
export { applyGraph } from './graph.ts';
export { TopologyStream, RefusedError, type Options, type Listeners } from './stream.ts';
export type * from './types.ts';
