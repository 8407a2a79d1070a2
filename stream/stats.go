package stream

import "sync/atomic"

// Cause labels a counter that is kept by cause.
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

// ReadCauses and ReconnectCauses are the label values, indexed by Cause: constants that Go cannot declare as such.
//
//nolint:gochecknoglobals // see above
var (
	ReadCauses      = [readCauses]string{"catch_up", "hole", "reconnect", "heartbeat", "poll", "cursor"}
	ReconnectCauses = [reconnectCauses]string{"start", "broken", "ping", "attach"}
)

// Stats are the program's counters and gauges. Every field may be read and written by any goroutine; the zero value is
// ready.
type Stats struct {
	Streams            atomic.Int64  // open streams
	StreamsRefused     atomic.Uint64 // by a limit or drain
	RequestsLimited    atomic.Uint64 // requests refused for their rate
	Events             atomic.Uint64 // events appended to feeds
	RawEvents          atomic.Uint64 // raw NOTIFYs forwarded
	Frames             atomic.Uint64 // frames written to sockets
	FrameBytes         atomic.Uint64
	SlowCloses         atomic.Uint64 // streams ended by the write timeout
	Resets             atomic.Uint64 // feeds thrown away
	Feeds              atomic.Int64
	FeedBytes          atomic.Int64  // of rings
	HeldBytes          atomic.Int64  // of documents and answers, until they are written
	Attaches           atomic.Uint64 // requests that got a stream
	AttachTransactions atomic.Uint64 // transactions that LISTENed and took snapshots
	SnapshotReads      atomic.Uint64 // snapshots taken for a topology that was attached already
	JournalReads       [readCauses]atomic.Uint64
	ListReads          atomic.Uint64 // statements that read the list of topologies, or look for what has changed in it
	Reconnects         [reconnectCauses]atomic.Uint64
	Listening          atomic.Bool   // the LISTEN connection is up and proved by the probe
	Channels           atomic.Int64  // channels that it listens to
	Streaming          atomic.Bool   // the journal is read from the WAL
	SlotWaiting        atomic.Bool   // a replication slot waits for transactions that are open
	ReplicaLagBytes    atomic.Int64  // WAL of the primary that the standby has not replayed
	ReplicaLagMicros   atomic.Int64  // age of what the standby replayed last; 0: it has replayed all that it has
	BusForced          atomic.Bool   // this server is forced to another bus than the database's
	QueueUsage         atomic.Uint64 // pg_notification_queue_usage() in millionths
	QueuePinnedBy      atomic.Int64  // pid of the backend that keeps the NOTIFY queue from shrinking; 0: none known
}
