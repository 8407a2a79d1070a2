// Package metrics shows the program's counters to Prometheus.
package metrics

import (
	"net/http"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"topostream/stream"
)

// Handler serves stats, and what Go and the process say of themselves, on a registry of its own.
func Handler(stats *stream.Stats) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	counter := func(name, help string, v *atomic.Uint64, labels prometheus.Labels) {
		opts := prometheus.CounterOpts{Namespace: "topostream", Name: name, Help: help, ConstLabels: labels}
		r.MustRegister(prometheus.NewCounterFunc(opts, func() float64 { return float64(v.Load()) }))
	}
	gauge := func(name, help string, v func() float64) {
		opts := prometheus.GaugeOpts{Namespace: "topostream", Name: name, Help: help}
		r.MustRegister(prometheus.NewGaugeFunc(opts, v))
	}
	gauge("streams", "Open streams.", func() float64 { return float64(stats.Streams.Load()) })
	gauge("feeds", "Feeds in memory.", func() float64 { return float64(stats.Feeds.Load()) })
	gauge("feed_bytes", "Bytes in the rings of all feeds.", func() float64 { return float64(stats.FeedBytes.Load()) })
	gauge("held_bytes", "Bytes of documents and answers, kept or being written, in one account with feed_bytes.",
		func() float64 { return float64(stats.HeldBytes.Load()) })
	gauge("channels", "Channels that the LISTEN connection listens to.",
		func() float64 { return float64(stats.Channels.Load()) })
	gauge("notify_queue_usage_ratio", "How full PostgreSQL's NOTIFY queue is.",
		func() float64 { return float64(stats.QueueUsage.Load()) / 1e6 })
	gauge("notify_queue_pinned_by_pid",
		"Backend that keeps PostgreSQL's NOTIFY queue from shrinking, once it is half full; 0: none known.",
		func() float64 { return float64(stats.QueuePinnedBy.Load()) })
	flag := func(name, help string, v *atomic.Bool) {
		gauge(name, help, func() float64 {
			if v.Load() {
				return 1
			}
			return 0
		})
	}
	flag("listening", "1 while LISTEN works.", &stats.Listening)
	flag("streaming_wal", "1 while the journal is read from the WAL.", &stats.Streaming)
	flag("wal_slot_waiting",
		"1 while a replication slot waits for transactions that are open in the cluster; streams run on poll.",
		&stats.SlotWaiting)
	gauge("replica_lag_bytes", "WAL of the primary that the standby of --replica-database-url has not replayed.",
		func() float64 { return float64(stats.ReplicaLagBytes.Load()) })
	gauge("replica_lag_seconds",
		"Age of what that standby replayed last; 0 when it has replayed all that it has received.",
		func() float64 { return float64(stats.ReplicaLagMicros.Load()) / 1e6 })
	flag("bus_forced", "1 while --bus forces this server to another bus than the database's.", &stats.BusForced)
	counter("streams_refused_total", "Streams refused by a limit or a drain.", &stats.StreamsRefused, nil)
	counter("requests_limited_total", "Requests refused for their rate.", &stats.RequestsLimited, nil)
	counter("events_total", "Events appended to feeds.", &stats.Events, nil)
	counter("raw_events_total", "Raw NOTIFYs forwarded.", &stats.RawEvents, nil)
	counter("frames_total", "Frames written to sockets.", &stats.Frames, nil)
	counter("frame_bytes_total", "Bytes of frames written to sockets.", &stats.FrameBytes, nil)
	counter("slow_closes_total", "Streams ended by the write timeout.", &stats.SlowCloses, nil)
	counter("resets_total", "Feeds thrown away.", &stats.Resets, nil)
	counter("attaches_total", "Requests that got a stream.", &stats.Attaches, nil)
	counter("attach_transactions_total", "Transactions that attached.", &stats.AttachTransactions, nil)
	counter("snapshot_reads_total", "Snapshots taken of topologies that were attached already.",
		&stats.SnapshotReads, nil)
	for i, cause := range stream.ReadCauses {
		counter("journal_reads_total", "Journal reads.", &stats.JournalReads[i], prometheus.Labels{"cause": cause})
	}
	counter("list_reads_total", "Reads of the list of topologies.", &stats.ListReads, nil)
	for i, cause := range stream.ReconnectCauses {
		counter("listen_reconnects_total", "LISTEN connections made.", &stats.Reconnects[i],
			prometheus.Labels{"cause": cause})
	}
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}
