package metrics

import "topostream/stream"

// Server makes what a server counts. Call it once.
func (r *Registry) Server() *stream.Stats {
	s := &stream.Stats{}
	r.streams(s)
	r.requests(s)
	r.feeds(s)
	r.attaches(s)
	r.bus(s)
	r.database(s)
	return s
}

func (r *Registry) streams(s *stream.Stats) {
	s.StreamsOpened = r.counter("streams_opened_total", "Streams that began.")
	r.counters(s.StreamsClosed[:], "streams_closed_total", "Streams that ended, by what ended them.", "reason",
		stream.CloseReasons[:])
	s.StreamsRefused = r.counter("streams_refused_total", "Streams refused by a limit or a drain.")
	r.counters(s.Resumes[:], "resumes_total", "Streams that came with a number to go on behind, by what they got.",
		"result", stream.ResumeResults[:])
	s.Events = r.counter("events_total", "Events appended to feeds.")
	s.RawEvents = r.counter("raw_events_total", "Raw NOTIFYs forwarded.")
	s.Frames = r.counter("frames_total", "Frames written to sockets.")
	s.FrameBytes = r.counter("frame_bytes_total", "Bytes of frames written to sockets.")
	delay := &delay{histogram: r.histogram("delivery_delay_seconds",
		"From when an event was recorded, by the database's clock, to when the write to a client returned that it was the "+
			"newest of, by the server's; without what clients catch up on.", delayBuckets())}
	s.Delay = delay
	s.Violations = r.counter("promise_violations_total",
		"Frames that were not their stream's last + 1. This is 0 for ever: one is a fault of the program.")
}

func (r *Registry) requests(s *stream.Stats) {
	s.RequestsLimited = r.counter("requests_limited_total", "Requests refused for their rate.")
	r.counters(s.Refusals[:], "auth_refusals_total", "Requests refused by 401 or 403, by what was wrong.", "reason",
		stream.Refusals[:])
	r.counters(s.Tickets[:], "tickets_total", "Tickets that were asked for or came, by what became of them.", "result",
		stream.TicketResults[:])
}

func (r *Registry) feeds(s *stream.Stats) {
	s.Feeds = r.gauge("feeds", "Feeds in memory.")
	s.FeedBytes = r.gauge("feed_bytes", "Bytes in the rings of all feeds.")
	s.HeldBytes = r.gauge("held_bytes",
		"Bytes of documents and answers, kept or being written, in one account with feed_bytes.")
	s.Resets = r.counter("resets_total", "Feeds thrown away.")
	r.counters(s.FeedEvictions[:], "feed_evictions_total",
		"What feeds dropped for lack of memory: a document that they kept, or the older half of a ring.", "what",
		stream.Evictions[:])
}

func (r *Registry) attaches(s *stream.Stats) {
	s.Attaches = r.counter("attaches_total", "Requests that got a stream, parts of streams counted one by one.")
	s.AttachDuration = r.histogram("attach_duration_seconds",
		"How long those took that had to wait for the database; the others are in attaches_total alone.",
		[]float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5})
	s.AttachBatch = r.histogram("attach_batch_topologies", "Topologies of one transaction that attached.",
		[]float64{1, 2, 5, 10, 20, 50, 100, 200})
	s.SnapshotReads = r.counter("snapshot_reads_total", "Snapshots taken of topologies that were attached already.")
	r.counters(s.JournalReads[:], "journal_reads_total", "Journal reads, by what caused them.", "cause",
		stream.ReadCauses[:])
	s.ListReads = r.counter("list_reads_total", "Reads of the list of topologies.")
}

func (r *Registry) bus(s *stream.Stats) {
	bus := newBusState("bus", "1 for how events come to this server now, 0 for the others.")
	wanted := newBusState("bus_wanted",
		"1 for how events should come to this server, by --bus or else by the database; 0 for the others.")
	streams := newBusStreams(bus)
	r.Add(bus, wanted, streams)
	s.Bus, s.BusWanted, s.Streams = bus, wanted, streams
	r.counters(s.Reconnects[:], "listen_reconnects_total", "LISTEN connections made, by why the last one was not enough.",
		"cause", stream.ReconnectCauses[:])
	s.Listening = r.gauge("listening", "1 while LISTEN works.")
	s.Channels = r.gauge("channels", "Channels that the LISTEN connection listens to.")
	s.Streaming = r.gauge("streaming_wal", "1 while the journal is read from the WAL.")
	s.SlotWaiting = r.gauge("wal_slot_waiting",
		"1 while a replication slot waits for transactions that are open in the cluster; streams run on poll.")
	s.WALLag = r.gauge("wal_lag_bytes",
		"WAL that PostgreSQL has written and this server has not confirmed; 0 while it reads none.")
	s.WALRetained = r.gauge("wal_retained_bytes",
		"WAL that PostgreSQL keeps for this server's replication slot; 0 while there is none.")
	s.ReplicaBehind = r.gauge("replica_lag_bytes",
		"WAL of the primary that the standby of --replica-database-url has not replayed.")
	s.ReplicaLag = r.gauge("replica_lag_seconds",
		"Age of what that standby replayed last; 0 when it has replayed all that it has received.")
	s.BusForced = r.gauge("bus_forced", "1 while --bus forces this server to another bus than the database's.")
	s.QueueUsage = r.gauge("notify_queue_usage_ratio", "How full PostgreSQL's NOTIFY queue is.")
	s.QueuePinnedBy = r.gauge("notify_queue_pinned_by_pid",
		"Backend that keeps PostgreSQL's NOTIFY queue from shrinking, once it is half full; 0: none known.")
}

// database makes what every server reads of the same database, so that whoever adds it up over servers is wrong.
func (r *Registry) database(s *stream.Stats) {
	const same = " Every server reads the same database: aggregate by max."
	queue := r.gaugeVec("mutations", "Mutations that wait or are worked on, every 15 s."+same, "state")
	for i, state := range stream.QueueStates {
		s.Mutations[i] = queue.WithLabelValues(state)
	}
	s.OldestPending = r.gauge("mutation_oldest_pending_age_seconds",
		"Age of the oldest pending mutation of a topology that is active or degraded (in others they wait for its status), "+
			"every 15 s; 0 when there is none."+same)
	r.counters(s.Pruned[:], "pruned_rows_total", "Rows that retention removed, by what they were.", "table",
		stream.PrunedTables[:])
}
