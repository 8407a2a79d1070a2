package check

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// A Report is what a run found.
type Report struct {
	Seed       uint64        `json:"seed"`
	Duration   time.Duration `json:"duration"`  // of the writing, in nanoseconds
	CaughtUp   time.Duration `json:"caught_up"` // how long clients took afterwards to get everything
	Topologies int           `json:"topologies"`

	Commits        uint64 `json:"commits"`
	Rollbacks      uint64 `json:"rollbacks"` // all of them, those on purpose among them
	Undone         uint64 `json:"undone"`    // on purpose
	Unknown        uint64 `json:"unknown"`   // the connection ended during COMMIT
	Retries        uint64 `json:"retries"`   // deadlocks, serialization failures, requests tried again
	DatabaseErrors uint64 `json:"database_errors"`
	Notifies       uint64 `json:"notifies"`

	Events  uint64                      `json:"events"` // of the journal
	Clients map[ClientKind]ClientReport `json:"clients"`

	// Of the snapshots checked: those with LANs, deckies and edges; those of topologies with a backlog; and those that
	// show the first mutations in flight alone.
	Graphs   uint64 `json:"graphs"`
	Backlogs uint64 `json:"backlogs"`
	Prefixes uint64 `json:"prefixes"`

	Lists           int    `json:"lists"`            // clients of the list
	ListConnections uint64 `json:"list_connections"` // which they made
	ListRows        uint64 `json:"list_rows"`        // which they got

	Resets    uint64 `json:"resets"`     // snapshots in place of events
	Pruned    uint64 `json:"pruned"`     // of these, those below what the journal holds
	NewEpochs uint64 `json:"new_epochs"` // and those by another epoch
	Silent    uint64 `json:"silent"`     // streams that clients gave up because nothing came

	Promotions     uint64 `json:"promotions"`
	LostByFailover uint64 `json:"lost_by_failover"` // events that promotions, or a failover where that was said, took back
	LostHistory    uint64 `json:"lost_history"`     // deliveries of events that a promotion took back

	Resyncs   uint64 `json:"resyncs"`   // times that retention was faster than the checker
	Unchecked uint64 `json:"unchecked"` // deliveries and snapshots that could not be compared

	Faults       map[string]FaultReport `json:"faults"`
	LongestPause time.Duration          `json:"longest_pause"` // by no fault

	Violations map[Kind]uint64 `json:"violations"`
	First      []Violation     `json:"first_violations"`
}

// ClientReport is what the clients of one kind got.
type ClientReport struct {
	Clients     int    `json:"clients"`
	Deliveries  uint64 `json:"deliveries"`
	Unjournaled uint64 `json:"unjournaled"`
	Connections uint64 `json:"connections"`
	Resumes     uint64 `json:"resumes"`
	Snapshots   uint64 `json:"snapshots"` // checked
}

// FaultReport is one kind of fault.
type FaultReport struct {
	Count        int           `json:"count"`
	LongestPause time.Duration `json:"longest_pause"` // between a commit and its delivery to a steady client
}

// Clean tells whether nothing was violated.
func (r *Report) Clean() bool { return len(r.Violations) == 0 }

// Deliveries is how many events clients got.
func (r *Report) Deliveries() (n uint64) {
	for _, c := range r.Clients {
		n += c.Deliveries
	}
	return n
}

// maxUnchecked is the part of the deliveries that need not be compared with the journal for a verdict: one in so many.
// Their numbers are judged all the same. A campaign that prunes and holds locks for most of its time has one in twenty.
const maxUnchecked = 4

// Judged gives an error when too little was compared for a verdict.
func (r *Report) Judged() error {
	switch n := r.Deliveries(); {
	case n == 0:
		return errors.New("no client got any event: there is nothing to judge")
	case r.Unchecked > n/maxUnchecked:
		return fmt.Errorf("%d of %d deliveries and snapshots could not be compared, more than one in %d: there is no "+
			"verdict", r.Unchecked, n, maxUnchecked)
	}
	return nil
}

// Write writes the report for people.
func (r *Report) Write(w io.Writer) {
	fmt.Fprintf(w, "seed %d: %d topologies for %s, caught up in %s\n", r.Seed, r.Topologies,
		r.Duration.Round(time.Millisecond), r.CaughtUp.Round(time.Millisecond))
	fmt.Fprintf(w,
		"writers: %d committed, %d rolled back (%d on purpose), %d unknown, %d retries, %d database errors, %d raw NOTIFYs\n",
		r.Commits, r.Rollbacks, r.Undone, r.Unknown, r.Retries, r.DatabaseErrors, r.Notifies)
	var all ClientReport
	for _, c := range r.Clients {
		all.Connections += c.Connections
		all.Resumes += c.Resumes
		all.Snapshots += c.Snapshots
		all.Unjournaled += c.Unjournaled
	}
	fmt.Fprintf(w,
		"events %d, deliveries %d and %d unjournaled, connections %d, resumes %d\n"+
			"snapshots checked %d: %d with the graph, %d of a backlog, %d of which show its beginning alone\n",
		r.Events, r.Deliveries(), all.Unjournaled, all.Connections, all.Resumes,
		all.Snapshots, r.Graphs, r.Backlogs, r.Prefixes)
	for _, kind := range clientKinds() {
		c := r.Clients[kind]
		fmt.Fprintf(w, "  %-9s %3d clients: %9d deliveries, %6d connections, %6d resumes, %6d snapshots\n", kind,
			c.Clients, c.Deliveries, c.Connections, c.Resumes, c.Snapshots)
	}
	fmt.Fprintf(w, "  of the list %d clients: %d rows, %d connections\n", r.Lists, r.ListRows, r.ListConnections)
	fmt.Fprintf(w,
		"snapshots in place of events: %d (%d below the journal, %d of a new epoch); streams given up as silent: %d\n",
		r.Resets, r.Pruned, r.NewEpochs, r.Silent)
	fmt.Fprintf(w, "promotions: %d, which took %d events back; clients had got %d of them before\n",
		r.Promotions, r.LostByFailover, r.LostHistory)
	fmt.Fprintf(w, "not compared: %d; retention was faster %d times\n", r.Unchecked, r.Resyncs)
	r.writeFaults(w)
	for _, v := range r.First {
		fmt.Fprintln(w, v)
	}
	fmt.Fprintf(w, "altered %d, refused %d, spliced %d, journal faults %d, rows of the list: stale %d, back %d\n",
		r.Violations[Altered], r.Violations[Refused], r.Violations[Spliced], r.Violations[Journal], r.Violations[Stale],
		r.Violations[Back])
	fmt.Fprintf(w, "lost %d, doubled %d, reordered %d, torn %d, wrong snapshots %d\n",
		r.Violations[Lost], r.Violations[Doubled], r.Violations[Reordered], r.Violations[Torn],
		r.Violations[WrongSnapshot])
}

func (r *Report) writeFaults(w io.Writer) {
	total := 0
	for _, f := range r.Faults {
		total += f.Count
	}
	fmt.Fprintf(w, "faults %d; the longest pause of a client by no fault: %s\n", total,
		r.LongestPause.Round(time.Millisecond))
	for _, name := range slices.Sorted(maps.Keys(r.Faults)) {
		f := r.Faults[name]
		fmt.Fprintf(w, "  %-40s %4d times, longest pause %s\n", name, f.Count, f.LongestPause.Round(time.Millisecond))
	}
}

// stats are a run's counters.
type stats struct {
	commits, rollbacks, undone, unknown, retries, databaseErrors, notifies                 atomic.Uint64
	events, graphs, backlogs, prefixes, resets, pruned, epochs, silent, resyncs, unchecked atomic.Uint64
	listConnections, listRows                                                              atomic.Uint64
	promotions, lostByFailover, lostHistory                                                atomic.Uint64

	kinds map[ClientKind]*kindStats
}

type kindStats struct {
	clients                                                  int
	deliveries, unjournaled, connections, resumes, snapshots atomic.Uint64
}

func newStats() *stats {
	s := &stats{kinds: map[ClientKind]*kindStats{}}
	for _, k := range clientKinds() {
		s.kinds[k] = &kindStats{}
	}
	return s
}

func (r *run) report(duration, caughtUp time.Duration) *Report {
	s := r.stats
	out := &Report{
		Seed: r.cfg.Seed, Duration: duration, CaughtUp: caughtUp, Topologies: len(r.topologies),
		Commits: s.commits.Load(), Rollbacks: s.rollbacks.Load(), Undone: s.undone.Load(), Unknown: s.unknown.Load(),
		Retries: s.retries.Load(), DatabaseErrors: s.databaseErrors.Load(), Notifies: s.notifies.Load(),
		Events: s.events.Load(), Graphs: s.graphs.Load(), Backlogs: s.backlogs.Load(), Prefixes: s.prefixes.Load(),
		Resets: s.resets.Load(), Pruned: s.pruned.Load(), NewEpochs: s.epochs.Load(), Silent: s.silent.Load(),
		Promotions: s.promotions.Load(), LostByFailover: s.lostByFailover.Load(), LostHistory: s.lostHistory.Load(),
		Resyncs: s.resyncs.Load(), Unchecked: s.unchecked.Load(),
		Lists: len(r.listers), ListConnections: s.listConnections.Load(), ListRows: s.listRows.Load(),
		Clients: map[ClientKind]ClientReport{}, Faults: map[string]FaultReport{},
	}
	for kind, k := range s.kinds {
		out.Clients[kind] = ClientReport{k.clients, k.deliveries.Load(), k.unjournaled.Load(), k.connections.Load(),
			k.resumes.Load(), k.snapshots.Load()}
	}
	r.faults.mu.Lock()
	for name, f := range r.faults.byFault {
		out.Faults[name] = *f
	}
	out.LongestPause = r.faults.calm
	r.faults.mu.Unlock()
	r.violations.mu.Lock()
	defer r.violations.mu.Unlock()
	out.Violations, out.First = maps.Clone(r.violations.count), slices.Clone(r.violations.first)
	return out
}
