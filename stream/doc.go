// Package stream is topostream's domain: topologies, events and their sequence, feeds and the cursors of clients in
// them, and the interfaces that a bus implements. It imports the standard library only.
//
// The way of an event is one line: trigger → journal + NOTIFY → listener → feed → frame → socket. This package is the
// middle of it: a [Bus] appends each event to its topology's [Feed] once, as the bytes of its SSE frame, and every
// client is a [Cursor] into that feed.
package stream
