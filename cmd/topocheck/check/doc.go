// Package check proves topostream's promise from outside: whoever connects gets a snapshot taken at sequence N and then
// N+1, N+2, N+3 … each exactly once, in order, none missing.
//
// It knows the program by its interface alone: it writes through SQL and REST, reads through HTTP, and shares no code
// with the server. [Run] makes topologies of its own, writes to them, follows them with clients of five kinds, and
// compares what they got with the journal, and the journal with what was committed. Others follow the list of
// topologies, by package stream/client: what they show at the end must be the table.
package check
