// Package stream is topostream's domain: topologies, events and their sequence, feeds and the cursors of clients in
// them, and the interfaces that a bus implements. It imports the standard library only.
//
// The way of an event is one line: trigger → journal + NOTIFY or WAL → source → feed → frame → socket. This package
// is the middle of it: a [Bus] has an [Encoder] make each event's SSE frame once and appends it to its topology's
// [Feed], and every client is a [Cursor] into that feed. [Memory] bounds what feeds and answers take together.
package stream
