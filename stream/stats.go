package stream

import (
	"reflect"
	"slices"
	"time"
)

// A Counter counts up. Like all that is counted with here, any goroutine may use it, and none waits for it or gets to
// read it. Prometheus's client has what does this; who counts does not know that.
type Counter interface {
	Inc()
	Add(n float64) // not less than 0
}

// A Gauge goes up and down.
type Gauge interface {
	Set(n float64)
	Inc()
	Dec()
	Add(n float64)
}

// An Observer keeps how often values of which size came. Times are in seconds.
type Observer interface{ Observe(n float64) }

// A Delay observes one write of events to a client: age is the time since the newest of them was recorded.
type Delay interface {
	Delivered(age time.Duration, id TopologyID, seq Seq)
}

// A Chooser says which one of several is the case.
type Chooser interface{ Choose(cause Cause) }

// Cause labels what is kept by a cause, a result or another word of a few.
type Cause int

// Why the journal was read.
const (
	ReadCatchUp   Cause = iota // after attach
	ReadHole                   // a notification was not last+1, or carried no JSON
	ReadReconnect              // after the LISTEN connection came back
	ReadHeartbeat              // heads and feeds differed at the heartbeat
	ReadPoll                   // heads and feeds differed while polling
	ReadCursor                 // a client was behind its feed's ring
	readCauses
)

// Why the LISTEN connection was made anew.
const (
	ReconnectStart  Cause = iota // the first connection
	ReconnectBroken              // a read or write failed
	ReconnectPing                // no answer to a ping
	ReconnectAttach              // an attach transaction left the connection unusable
	reconnectCauses
)

// How events come to this server.
const (
	BusNotify Cause = iota
	BusWAL
	BusPoll
	buses
)

// Why a stream ended.
const (
	ClosedByClient    Cause = iota // or by what is between: the connection is gone
	ClosedSlow                     // it did not take in time what it was sent
	ClosedExpired                  // its token
	ClosedReplaced                 // another stream of its user took its place
	ClosedDraining                 // the server goes away
	ClosedDeleted                  // its topologies
	ClosedUnavailable              // the database, or this server
	closeReasons
)

// What became of a stream that was asked to go on behind a number.
const (
	ResumeContinued Cause = iota // the events behind it
	ResumeSnapshot               // a snapshot: the number is of another history, or too old
	resumeResults
)

// What was dropped so that the account of memory holds.
const (
	EvictedDocument Cause = iota // one that a feed kept for the next client
	EvictedRing                  // the older half of a ring
	evictions
)

// Why a request was refused before it did anything.
const (
	RefusedMissing   Cause = iota // 401: no credential
	RefusedMalformed              // 401: none that can be read
	RefusedExpired                // 401: it was good
	RefusedSignature              // 401: no key of ours proves it
	RefusedClaims                 // 401: it says what is not taken
	RefusedTicket                 // 401: unknown, expired, or redeemed before
	RefusedRole                   // 403: the role may not do that
	RefusedScope                  // 403: the topology is not the token's
	RefusedOrigin                 // 403: a cookie, and a page of another origin
	refusals
)

// What became of a ticket.
const (
	TicketMinted   Cause = iota
	TicketTooMany        // not minted: the subject has too many
	TicketRedeemed       // by a stream
	TicketRefused        // unknown, expired, or redeemed before
	TicketFailed         // the database could not be asked
	ticketResults
)

// What retention removes.
const (
	PrunedEvents Cause = iota
	PrunedMutations
	PrunedKeys
	PrunedTickets
	PrunedUntold
	prunedTables
)

// States of mutations that wait or are worked on.
const (
	QueuePending Cause = iota
	QueueApplying
	queueStates
)

// How a worker's job ended.
const (
	JobApplied   Cause = iota
	JobFailed          // for good, with a reason
	JobGivenBack       // the worker stopped
	JobLost            // its lease ran out, or its topology is gone
	jobOutcomes
)

// The label values, indexed by Cause: constants that Go cannot declare as such.
//
//nolint:gochecknoglobals // see above
var (
	ReadCauses      = [readCauses]string{"catch_up", "hole", "reconnect", "heartbeat", "poll", "cursor"}
	ReconnectCauses = [reconnectCauses]string{"start", "broken", "ping", "attach"}
	Buses           = [buses]string{"notify", "wal", "poll"}
	CloseReasons    = [closeReasons]string{
		"client", "slow", "token_expired", "replaced", "draining", "deleted", "unavailable",
	}
	ResumeResults = [resumeResults]string{"continued", "snapshot"}
	Evictions     = [evictions]string{"document", "ring"}
	Refusals      = [refusals]string{
		"missing", "malformed", "expired", "signature", "claims", "ticket", "role", "scope", "origin",
	}
	TicketResults = [ticketResults]string{"minted", "too_many", "redeemed", "refused", "unavailable"}
	PrunedTables  = [prunedTables]string{"events", "mutations", "keys", "tickets", "untold"}
	QueueStates   = [queueStates]string{"pending", "applying"}
	JobOutcomes   = [jobOutcomes]string{"applied", "failed", "given_back", "lost"}
)

// Stats are what a server counts. Each is there: make them with package metrics, or with [NoStats].
type Stats struct {
	Streams         Gauge // open ones
	StreamsOpened   Counter
	StreamsClosed   [closeReasons]Counter
	StreamsRefused  Counter // by a limit or drain
	Resumes         [resumeResults]Counter
	RequestsLimited Counter // refused for their rate
	Refusals        [refusals]Counter
	Tickets         [ticketResults]Counter

	Events     Counter // appended to feeds
	RawEvents  Counter // raw NOTIFYs forwarded
	Frames     Counter // written to sockets
	FrameBytes Counter
	Delay      Delay
	// Violations are frames that were not the stream's last + 1. There are none: it counts what must not happen.
	Violations Counter

	Feeds         Gauge
	FeedBytes     Gauge   // of rings
	HeldBytes     Gauge   // of documents and answers, until they are written
	Resets        Counter // feeds thrown away
	FeedEvictions [evictions]Counter

	Attaches       Counter  // requests that got a stream
	AttachDuration Observer // of those that had to wait
	AttachBatch    Observer // topologies of a transaction that LISTENed and took snapshots
	SnapshotReads  Counter  // snapshots taken for a topology that was attached already
	JournalReads   [readCauses]Counter
	ListReads      Counter // statements that read the list of topologies, or look for what has changed in it

	Reconnects    [reconnectCauses]Counter
	Bus           Chooser // how events come now
	BusWanted     Chooser // how they should come
	Listening     Gauge   // 1: the LISTEN connection is up and proved by the probe
	Channels      Gauge   // that it listens to
	Streaming     Gauge   // 1: the journal is read from the WAL
	SlotWaiting   Gauge   // 1: a replication slot waits for transactions that are open
	WALLag        Gauge   // bytes that PostgreSQL has written and this server has not confirmed
	WALRetained   Gauge   // bytes that this server's slot keeps
	ReplicaLag    Gauge   // seconds: age of what the standby replayed last; 0: it has replayed all that it has
	ReplicaBehind Gauge   // bytes of the primary's WAL that the standby has not replayed
	BusForced     Gauge   // 1: this server is forced to another bus than the database's
	QueueUsage    Gauge   // pg_notification_queue_usage()
	QueuePinnedBy Gauge   // pid of the backend that keeps the NOTIFY queue from shrinking; 0: none known

	Mutations     [queueStates]Gauge
	OldestPending Gauge // its age in seconds, of topologies that are active or degraded; 0: none is pending there
	Pruned        [prunedTables]Counter
}

// WorkStats are what a worker counts. Each is there: make them with package metrics, or with [NoWorkStats].
type WorkStats struct {
	Wait          Observer // from a mutation's request to its first claim
	Apply         Observer // from a claim to its end
	Finished      [opLabels][jobOutcomes]Counter
	LeaseExpiries Counter // leases of any worker that ran out, as this one found
}

// opLabels are the ops, and one for what is none of them.
const opLabels = 10

// OpLabels are the label values of ops, by which WorkStats.Finished is indexed. The last is for all others: a label
// must not be what somebody sends.
func OpLabels() [opLabels]string {
	var labels [opLabels]string
	copy(labels[:], append(Ops(), "other"))
	return labels
}

// OpLabel is the place of an op's label.
func OpLabel(op string) int {
	i, known := slices.BinarySearch(Ops(), op)
	if !known {
		return opLabels - 1
	}
	return i
}

// NoStats are those that nobody reads.
func NoStats() *Stats { return silent[Stats]() }

// NoWorkStats are those that nobody reads.
func NoWorkStats() *WorkStats { return silent[WorkStats]() }

// silent fills all that counts with what does nothing.
func silent[T any]() *T {
	var stats T
	fill(reflect.ValueOf(&stats).Elem())
	return &stats
}

func fill(v reflect.Value) {
	switch v.Kind() { //nolint:exhaustive // the others are interfaces
	case reflect.Struct:
		for _, field := range v.Fields() {
			fill(field)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i))
		}
	default:
		v.Set(reflect.ValueOf(nothing{}))
	}
}

// nothing counts nothing.
type nothing struct{}

func (nothing) Inc()                                     {}
func (nothing) Dec()                                     {}
func (nothing) Add(float64)                              {}
func (nothing) Set(float64)                              {}
func (nothing) Observe(float64)                          {}
func (nothing) Choose(Cause)                             {}
func (nothing) Delivered(time.Duration, TopologyID, Seq) {}

// Flag is a gauge's value for what is so or not.
func Flag(on bool) float64 {
	if on {
		return 1
	}
	return 0
}
