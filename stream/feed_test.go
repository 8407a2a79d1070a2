package stream_test

import (
	"context"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"topostream/stream"
)

// frames is a journal in memory: the whole history of one topology, as the database would hold it.
type frames struct {
	first stream.Seq
	all   []stream.Frame // all[i] is seq i+1
}

func (j *frames) Page(_ context.Context, _ stream.TopologyID, after stream.Seq) ([]stream.Frame, error) {
	if after+1 < j.first || int(after) >= len(j.all) {
		return nil, stream.ErrReset
	}
	return j.all[after:min(int(after)+7, len(j.all))], nil
}

func frame(n int) stream.Frame {
	return stream.Frame{Seq: stream.Seq(n), Bytes: fmt.Appendf(nil, "event: x\nid: %d\ndata: {}\n\n", n)}
}

func TestEveryCursorGetsEverySeqOnceInOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		journal := &frames{first: 1}
		feed := stream.NewFeed(stream.FeedConfig{Journal: journal, MaxEvents: rapid.IntRange(1, 20).Draw(t, "ring"), MaxBytes: rapid.IntRange(30, 2000).Draw(t, "bytes")})
		type client struct {
			cursor *stream.Cursor
			last   stream.Seq
		}
		var clients []*client
		read := func(c *client, n int) bool {
			got, _, err := c.cursor.Next(t.Context(), make([]stream.Frame, 0, n))
			if err != nil {
				t.Fatalf("Next: %v", err)
			}
			for _, fr := range got {
				if fr.Seq == 0 {
					continue
				}
				if fr.Seq != c.last+1 {
					t.Fatalf("%d came after %d", fr.Seq, c.last)
				}
				c.last = fr.Seq
			}
			return len(got) > 0
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(*rapid.T) {
				fr := frame(len(journal.all) + 1)
				journal.all = append(journal.all, fr)
				if r := feed.Append(fr); r != stream.Appended {
					t.Fatalf("append: %v", r)
				}
			},
			"append again": func(t *rapid.T) {
				if n := len(journal.all); n > 0 {
					if r := feed.Append(journal.all[rapid.IntRange(0, n-1).Draw(t, "seq")]); r != stream.Duplicate {
						t.Fatalf("append again: %v", r)
					}
				}
			},
			"append a hole": func(*rapid.T) {
				if r := feed.Append(frame(len(journal.all) + 2)); r != stream.Hole {
					t.Fatalf("append a hole: %v", r)
				}
			},
			"raw": func(*rapid.T) { feed.AppendRaw(stream.Frame{Bytes: []byte("event: notify\ndata: x\n\n")}) },
			"attach": func(t *rapid.T) {
				after := stream.Seq(rapid.IntRange(0, len(journal.all)).Draw(t, "after"))
				clients = append(clients, &client{feed.Cursor(after), after})
			},
			"read": func(t *rapid.T) {
				if len(clients) > 0 {
					read(rapid.SampledFrom(clients).Draw(t, "client"), rapid.IntRange(1, 10).Draw(t, "n"))
				}
			},
		})
		for _, c := range clients {
			for read(c, 5) {
			}
			if int(c.last) != len(journal.all) {
				t.Fatalf("a client ended at %d of %d", c.last, len(journal.all))
			}
		}
	})
}

func TestAFrameThatDiffersFromTheRingsIsAConflict(t *testing.T) {
	t.Parallel()
	feed := stream.NewFeed(stream.FeedConfig{})
	feed.Append(frame(1))
	if r := feed.Append(stream.Frame{Seq: 1, Bytes: []byte("forged")}); r != stream.Conflict {
		t.Errorf("%v", r)
	}
}

func TestACursorGivesTheFinalFrameAndThenTheEnd(t *testing.T) {
	t.Parallel()
	feed := stream.NewFeed(stream.FeedConfig{})
	c := feed.Cursor(0)
	last := frame(1)
	last.Final = true
	feed.Append(last)
	if got, _, err := c.Next(t.Context(), make([]stream.Frame, 0, 4)); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	if _, _, err := c.Next(t.Context(), make([]stream.Frame, 0, 4)); err != stream.ErrDeleted { //nolint:errorlint // the sentinel itself
		t.Errorf("%v", err)
	}
}

func TestMemoryOfAllFeedsIsBounded(t *testing.T) {
	t.Parallel()
	stats := &stream.Stats{}
	memory := stream.NewMemory(8000, stats)
	feeds := make([]*stream.Feed, 10)
	for i := range feeds {
		feeds[i] = stream.NewFeed(stream.FeedConfig{Memory: memory, Stats: stats})
	}
	for n := 1; n <= 100; n++ {
		for _, f := range feeds {
			f.Append(frame(n))
		}
	}
	if n := stats.FeedBytes.Load(); n > 8000+500 {
		t.Errorf("%d bytes", n)
	}
	for _, f := range feeds {
		f.Close(stream.ErrClosed)
	}
	if n := stats.FeedBytes.Load(); n != 0 {
		t.Errorf("%d bytes after all feeds were closed", n)
	}
}
