package pgbus

import (
	"context"
	"sync"
	"time"

	"topostream/pgbus/wait"
	"topostream/pgbus/wal"
	"topostream/stream"
)

// The WAL may tell of a commit before any statement can see it: PostgreSQL flushes a commit, waits for a synchronous standby, however long that
// takes, and only then shows it. Such an event is unsettled. An event settles when a snapshot that was taken later than it was streamed sees it; its feed is then compared with it. So none is
// lost: a topology that is attached at that moment is compared, and the catch-up of one that is attached later begins later, and sees it. A standby shows what its WAL
// tells; once it is promoted it is as any primary.

// settleEvery is how often unsettled events are looked at while there are any.
const settleEvery = 250 * time.Millisecond

// A streamedEvent is the newest event of a topology that was streamed.
type streamedEvent struct {
	seq  stream.Seq
	xid  uint32
	look uint64 // since which look; its feed is about to get one of the current look
}

type unsettled struct {
	mu         sync.Mutex
	looks      uint64 // at the database
	newest     map[stream.TopologyID]streamedEvent
	bystanders []uint32 // transactions that may have been flushed before the stream began, and could not be seen by the reads after it
}

func (u *unsettled) add(id []byte, seq stream.Seq, xid uint32) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.newest[stream.TopologyID(id)] = streamedEvent{seq, xid, u.looks}
}

func (u *unsettled) watch(xids []uint32) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.bystanders = append(u.bystanders[:0], xids...)
}

// covers tells whether the WAL has shown the event n, though the database may not show it yet. Ask before the database is asked: an event that has settled in
// between is seen by what is read afterwards.
func (u *unsettled) covers(id stream.TopologyID, n stream.Seq) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	e, ok := u.newest[id]
	return ok && n <= e.seq && n.Epoch() == e.seq.Epoch()
}

func (u *unsettled) empty() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.newest) == 0 && len(u.bystanders) == 0
}

// settle takes out the events that s sees, but for those of this look. ended tells whether a bystander has ended since the last call.
func (u *unsettled) settle(s wal.Visibility) (seen map[stream.TopologyID]stream.Seq, ended bool) {
	seen = map[stream.TopologyID]stream.Seq{}
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, e := range u.newest {
		if e.look < u.looks && s.Sees(e.xid) {
			seen[id] = e.seq
			delete(u.newest, id)
		}
	}
	still := u.bystanders[:0]
	for _, xid := range u.bystanders {
		if s.Sees(xid) {
			ended = true
		} else {
			still = append(still, xid)
		}
	}
	u.bystanders = still
	u.looks++
	return seen, ended
}

// settleLoop compares each streamed event with its feed once the database shows it.
func (b *Bus) settleLoop(ctx context.Context) {
	for wait.Pause(ctx, settleEvery) {
		if b.unsettled.empty() {
			continue
		}
		v, err := wal.ReadVisibility(ctx, b.read())
		if err != nil {
			b.log.Debug("trying again", "error", err)
			continue
		}
		b.settle(v)
	}
}

func (b *Bus) settle(v wal.Visibility) {
	seen, ended := b.unsettled.settle(v)
	var behind []*topic
	for id, seq := range seen {
		if t := b.topic(id); t != nil && t.feed.Last() < seq {
			behind = append(behind, t)
		}
	}
	b.fillAll(behind, stream.ReadHole)
	if ended {
		b.compareSoon()
	}
}
