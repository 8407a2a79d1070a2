// Package fleet is many clients of a server that streams, SSE or WebSocket, in one process: a [Fleet].
//
// A client has no goroutine. A few loops over epoll own all sockets: a loop connects, reads into one buffer and judges
// what it has read, so that the load takes little from the server that shares the machine. What a client was sent must
// be gapless and without doubles: each event holds a [Mark] with its serial in its topology, and where the server
// numbers events without gaps (an SSE `id:`), those numbers are looked at, too. So a measurement is also a verdict.
package fleet
