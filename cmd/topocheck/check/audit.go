package check

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"io"
	"math/rand/v2"
	"net/http"
	"time"
)

// audit reads the journals to their ends, and compares what is left: the ledgers, the tables, and what the servers'
// journals say.
func (r *run) audit(ctx context.Context, f *follower) error {
	defer f.close()
	if err := f.readAll(ctx); err != nil {
		return err
	}
	for _, t := range r.topologies {
		if err := r.compareTables(ctx, f, t); err != nil {
			return err
		}
		t.mu.Lock()
		t.judgeWaiting(true)
		r.closeLedger(t)
		t.mu.Unlock()
	}
	return r.compareJournals(ctx)
}

// compareTables compares a topology's tables with its journal. A worker may go on while we look: then the journal is
// read on.
func (r *run) compareTables(ctx context.Context, f *follower, t *topology) error {
	for range 20 {
		s, head, _, err := r.readState(ctx, f.conn, t.id)
		if err != nil {
			return err
		}
		t.mu.Lock()
		same := head == t.position
		if difference := t.state.difference(s.digest, true, true); same && difference != "" {
			t.problem(head, "the tables are not what the journal tells: "+difference)
		}
		t.mu.Unlock()
		if same {
			return nil
		}
		if err := f.readAll(ctx); err != nil {
			return err
		}
	}
	r.stats.unchecked.Add(1)
	return nil
}

// closeLedger reports what was committed and is not in the journal. It is called under t.mu.
func (r *run) closeLedger(t *topology) {
	for m, e := range t.ledger.entries {
		switch {
		case e.outcome != committed || e.excused:
		case r.cfg.MayLose && e.sent < t.ledger.epochAt:
			r.stats.lostByFailover.Add(1)
		default:
			r.violations.add(Violation{Kind: Journal, Topology: t.name, At: e.at,
				Detail: fmt.Sprintf("%s was committed, and the journal does not hold it", m)})
		}
	}
}

// journalTail is how many events of each topology are read through the servers at the end.
const journalTail = 500

// compareJournals reads the end of each journal through the API.
func (r *run) compareJournals(ctx context.Context) error {
	rng := rand.New(rand.NewPCG(r.cfg.Seed, 1))
	browser := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableCompression: true}}
	defer browser.CloseIdleConnections()
	for _, t := range r.topologies {
		t.mu.Lock()
		head, first := t.position, t.first
		t.mu.Unlock()
		after := max(head, first-1+journalTail, epochBase(epochOf(head))+journalTail) - journalTail
		var (
			page journalPage
			err  error
		)
		for range 20 { // a server may be on its way up
			if page, err = r.journal(ctx, browser, r.server(rng), t, after); err == nil {
				break
			}
			pause(ctx, 500*time.Millisecond)
		}
		if err != nil {
			return err
		}
		t.mu.Lock()
		t.comparePage(page, after, head)
		t.mu.Unlock()
	}
	return nil
}

type journalPage struct {
	First  uint64            `json:"first"`
	Head   uint64            `json:"head"`
	Events []json.RawMessage `json:"events"`
}

func (r *run) journal(ctx context.Context, browser *http.Client, server string, t *topology,
	after uint64) (page journalPage, err error) {
	token, err := r.cfg.Token("topocheck-auditor")
	if err != nil {
		return page, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet,
		fmt.Sprintf("%s/api/v1/topologies/%s/journal?limit=%d&after=%d", server, t.id, journalTail, after), nil)
	if err != nil {
		return page, fmt.Errorf("read the journal: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := browser.Do(req)
	if err != nil {
		return page, fmt.Errorf("read the journal: %w", err)
	}
	defer func() { _ = res.Body.Close() }() // it is read
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return page, fmt.Errorf("read the journal: %s %s %w", res.Status, short(body), err)
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return page, fmt.Errorf("read the journal: %w", err)
	}
	return page, nil
}

// comparePage compares what a server says is the journal with the journal, which may have gone on since it was read. It
// is called under t.mu.
func (t *topology) comparePage(page journalPage, after, head uint64) {
	if page.Head < head || after+uint64(len(page.Events)) < head {
		t.problem(page.Head, fmt.Sprintf("GET journal after %d gives %d events and head %d; the head is %d", after,
			len(page.Events), page.Head, head))
		return
	}
	for i, e := range page.Events {
		seq := after + uint64(i) + 1
		if r := t.record(seq); r != nil && r.data != 0 && r.data != maphash.Bytes(t.run.hash, e) {
			t.problem(seq, fmt.Sprintf("GET journal gives other bytes than the journal holds: %.100q", e))
		}
	}
}
