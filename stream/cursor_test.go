package stream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"topostream/stream"
)

// A pagedJournal is a journal in memory: the whole history of one topology, as the database would hold it.
type pagedJournal struct {
	first stream.Seq // oldest kept
	all   []stream.Frame
	page  int
	reads []stream.Seq // what was asked for
}

func (j *pagedJournal) Page(_ context.Context, _ stream.TopologyID, after stream.Seq) ([]stream.Frame, error) {
	j.reads = append(j.reads, after)
	if after+1 < j.first || int(after) >= len(j.all) {
		return nil, stream.ErrReset
	}
	return j.all[after:min(int(after)+j.page, len(j.all))], nil
}

// history is a journal of n events.
func history(n, page int) *pagedJournal {
	j := &pagedJournal{first: 1, page: page}
	for i := range n {
		j.all = append(j.all, frame(i+1))
	}
	return j
}

// appendAll appends events of a journal to the feed.
func appendAll(t *testing.T, f *stream.Feed, frames ...stream.Frame) {
	t.Helper()
	for _, fr := range frames {
		if r := f.Append(fr); r != stream.Appended {
			t.Fatalf("append %d: %v", fr.Seq, r)
		}
	}
}

// raw is a frame that is not journaled.
func raw(text string) stream.Frame { return stream.Frame{Bytes: []byte(text)} }

// names are the seqs of frames, and the texts of those that have none.
func names(frames []stream.Frame) (list []string) {
	for _, fr := range frames {
		if fr.Seq == 0 {
			list = append(list, string(fr.Bytes))
		} else {
			list = append(list, fr.Seq.String())
		}
	}
	return list
}

// gives fails unless the cursor's Next gives just these frames, as names calls them, for as many calls as it takes.
func gives(t *testing.T, c *stream.Cursor, want ...string) {
	t.Helper()
	var got []string
	for len(got) < max(len(want), 1) {
		frames, changed, err := c.Next(t.Context(), make([]stream.Frame, 0, 100))
		if err != nil {
			t.Fatalf("after %v: %v, want %v", got, err, want)
		}
		if changed != nil {
			break
		}
		got = append(got, names(frames)...)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// ends fails unless Next gives an error and no frames.
func ends(t *testing.T, c *stream.Cursor, want error) {
	t.Helper()
	frames, changed, err := c.Next(t.Context(), make([]stream.Frame, 0, 100))
	if !errors.Is(err, want) || len(frames) > 0 || changed != nil {
		t.Errorf("%v, %v, want %v", names(frames), err, want)
	}
}

// A model of what every client may see, whatever the sizes of ring and pages are:
//
//   - each event above the cursor's seq, once, in order, whether from the ring or the journal, up to the topology's
//     end;
//   - of the frames that are not journaled, those that came after the cursor was made, at most once, in order, and
//     between the events that they came between; all of them if the ring never dropped one.
func TestEveryClientSeesTheHistoryInOrderAndWhatIsNotJournaledInItsPlace(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		journal := history(rapid.IntRange(0, 9).Draw(t, "base"), rapid.IntRange(1, 9).Draw(t, "page"))
		events, size := rapid.IntRange(1, 20).Draw(t, "ring"), rapid.IntRange(30, 2000).Draw(t, "bytes")
		feed := stream.NewFeed(stream.FeedConfig{
			Base: stream.Seq(len(journal.all)), Journal: journal, MaxEvents: events, MaxBytes: size,
		})
		m := model{feed: feed, journal: journal, base: feed.Last(), maxEvents: events, maxBytes: size}
		t.Repeat(map[string]func(*rapid.T){
			"append": m.append,
			"append again": func(t *rapid.T) {
				if n := len(journal.all); n > 0 && !m.ended {
					if r := feed.Append(journal.all[rapid.IntRange(0, n-1).Draw(t, "seq")]); r != stream.Duplicate {
						t.Fatalf("append again: %v", r)
					}
				}
			},
			"append a hole": func(t *rapid.T) {
				if r := feed.Append(frame(len(journal.all) + 2)); !m.ended && r != stream.Hole {
					t.Fatalf("append a hole: %v", r)
				}
			},
			"raw": func(*rapid.T) { m.raw() },
			"attach": func(t *rapid.T) {
				m.attach(stream.Seq(rapid.IntRange(0, len(journal.all)).Draw(t, "after")))
			},
			"read": func(t *rapid.T) {
				if len(m.clients) > 0 {
					m.read(t, rapid.SampledFrom(m.clients).Draw(t, "client"), rapid.IntRange(1, 10).Draw(t, "n"))
				}
			},
			"delete": func(t *rapid.T) {
				if !m.ended && rapid.IntRange(0, 9).Draw(t, "delete") == 0 {
					m.delete(t)
				}
			},
		})
		for _, c := range m.clients {
			for m.read(t, c, 5) {
			}
			m.saw(t, c)
		}
	})
}

// A model is a feed, its clients, and all that was given to it.
type model struct {
	feed    *stream.Feed
	journal *pagedJournal
	raws    []placed
	clients []*modelClient
	base    stream.Seq // the feed's
	ended   bool

	maxEvents, frames int // that the ring may hold, and that it was given
	maxBytes, bytes   int
}

// placed is a raw frame with the last event before it.
type placed struct {
	name  string
	after stream.Seq
}

type modelClient struct {
	cursor *stream.Cursor
	after  stream.Seq // where it began
	last   stream.Seq
	raws   []placed // that it has got
	born   int      // how many raws there were when it came
}

func (m *model) append(t *rapid.T) {
	if m.ended {
		return
	}
	m.give(t, frame(len(m.journal.all)+1))
}

func (m *model) give(t *rapid.T, fr stream.Frame) {
	m.journal.all = append(m.journal.all, fr)
	m.frames, m.bytes = m.frames+1, m.bytes+len(fr.Bytes)
	if r := m.feed.Append(fr); r != stream.Appended {
		t.Fatalf("append: %v", r)
	}
}

func (m *model) raw() {
	name := fmt.Sprintf("raw %d", len(m.raws))
	if m.feed.AppendRaw(raw(name)); !m.ended {
		m.frames, m.bytes = m.frames+1, m.bytes+len(name)
		m.raws = append(m.raws, placed{name, stream.Seq(len(m.journal.all))})
	}
}

func (m *model) attach(after stream.Seq) {
	m.clients = append(m.clients, &modelClient{cursor: m.feed.Cursor(after), after: after, last: after,
		born: len(m.raws)})
}

func (m *model) delete(t *rapid.T) {
	fr := frame(len(m.journal.all) + 1)
	fr.Final = true
	m.give(t, fr)
	m.ended = true
}

// read reads up to n frames, and tells whether there may be more.
func (m *model) read(t *rapid.T, c *modelClient, n int) bool {
	got, changed, err := c.cursor.Next(t.Context(), make([]stream.Frame, 0, n))
	if errors.Is(err, stream.ErrDeleted) && m.ended && int(c.last) == len(m.journal.all) {
		return false
	}
	if err != nil || len(got) > n || (changed == nil) != (len(got) > 0) {
		t.Fatalf("%d frames for %d, a channel: %v, %v", len(got), n, changed != nil, err)
	}
	for _, fr := range got {
		if fr.Seq == 0 {
			c.raws = append(c.raws, placed{string(fr.Bytes), c.last})
			continue
		}
		if fr.Seq != c.last+1 || !bytes.Equal(fr.Bytes, m.journal.all[c.last].Bytes) {
			t.Fatalf("%q came after %d", fr.Bytes, c.last)
		}
		c.last = fr.Seq
	}
	if c.cursor.Last() != c.last {
		t.Fatalf("the cursor stands at %d, want %d", c.cursor.Last(), c.last)
	}
	return len(got) > 0
}

// saw checks what a client has got that has read all.
func (m *model) saw(t *rapid.T, c *modelClient) {
	if int(c.last) != len(m.journal.all) {
		t.Fatalf("a client ended at %d of %d", c.last, len(m.journal.all))
	}
	rest := m.raws[c.born:]
	for _, got := range c.raws {
		i := slices.Index(rest, got)
		if i < 0 {
			t.Fatalf("%v is no frame of this client's, or came in another place: %v", got, m.raws[c.born:])
		}
		rest = rest[i+1:]
	}
	if c.after >= m.base && m.frames <= m.maxEvents && m.bytes <= m.maxBytes && len(c.raws) != len(m.raws)-c.born {
		t.Fatalf("got %v of %v, and the ring dropped nothing", c.raws, m.raws[c.born:])
	}
}

func TestACursorReadsTheRingAloneWhereThatIsEnough(t *testing.T) {
	t.Parallel()
	j := history(6, 9)
	f := stream.NewFeed(stream.FeedConfig{MaxEvents: 4, Journal: j})
	appendAll(t, f, j.all...)
	gives(t, f.Cursor(2), "3", "4", "5", "6")
	gives(t, f.Cursor(4), "5", "6")
	gives(t, f.Cursor(6))
	if len(j.reads) > 0 {
		t.Errorf("the journal was read after %v", j.reads)
	}
	gives(t, f.Cursor(1), "2", "3", "4", "5", "6")
	if !slices.Equal(j.reads, []stream.Seq{1}) {
		t.Errorf("the journal was read after %v, want once, after 1", j.reads)
	}
}

func TestACursorGoesFromTheJournalToTheRingByItsSeq(t *testing.T) {
	t.Parallel()
	j := history(7, 3)
	f := stream.NewFeed(stream.FeedConfig{MaxEvents: 4, Journal: j})
	appendAll(t, f, j.all[:6]...) // 3 to 6 are in the ring
	c := f.Cursor(0)
	f.AppendRaw(raw("raw"))    // which takes 3's place
	gives(t, c, "1", "2", "3") // from the journal
	gives(t, c, "4", "5", "6", "raw")
	appendAll(t, f, j.all[6])
	f.AppendRaw(raw("another"))
	gives(t, c, "7", "another")
	f.AppendRaw(raw("a third"))
	gives(t, c, "a third")
	if !slices.Equal(j.reads, []stream.Seq{0}) {
		t.Errorf("the journal was read after %v, want once", j.reads)
	}
}

// A page may hold what came behind a frame that is not journaled. Given afterwards, that one would be out of its place.
func TestWhatIsNotJournaledIsNotGivenBehindWhatCameAfterIt(t *testing.T) {
	t.Parallel()
	j := history(6, 9)
	f := stream.NewFeed(stream.FeedConfig{MaxEvents: 4, Journal: j})
	appendAll(t, f, j.all[:5]...)
	c := f.Cursor(0)
	f.AppendRaw(raw("raw"))
	appendAll(t, f, j.all[5])
	gives(t, c, "1", "2", "3", "4", "5", "6")
	gives(t, c)

	fresh := stream.NewFeed(stream.FeedConfig{Base: 5, Journal: j})
	c = fresh.Cursor(0)
	fresh.AppendRaw(raw("raw"))
	appendAll(t, fresh, j.all[5])
	gives(t, c, "1", "2", "3", "4", "5", "6")
	gives(t, c)
}

func TestWhatIsNotJournaledAndWasDroppedIsMissedAndNothingElse(t *testing.T) {
	t.Parallel()
	f := stream.NewFeed(stream.FeedConfig{MaxEvents: 2})
	c := f.Cursor(0)
	for _, text := range []string{"a", "b", "c"} {
		f.AppendRaw(raw(text))
	}
	gives(t, c, "b", "c")
}

func TestACursorThatIsAheadOfItsFeedSkipsWhatItsClientHas(t *testing.T) {
	t.Parallel()
	f := stream.NewFeed(stream.FeedConfig{})
	c := f.Cursor(2)
	appendAll(t, f, frame(1), frame(2), frame(3))
	gives(t, c, "3")
}

func TestAPageIsGivenInPartsWithoutAnotherRead(t *testing.T) {
	t.Parallel()
	j := history(5, 9)
	f := stream.NewFeed(stream.FeedConfig{MaxEvents: 1, Journal: j})
	appendAll(t, f, j.all...)
	c := f.Cursor(0)
	for _, want := range []string{"[1 2]", "[3 4]", "[5]"} {
		got, changed, err := c.Next(t.Context(), make([]stream.Frame, 1, 2)) // what buf holds does not count
		if fmt.Sprint(names(got)) != want || changed != nil || err != nil {
			t.Errorf("%v, %v, want %s", names(got), err, want)
		}
	}
	if len(j.reads) != 1 {
		t.Errorf("the journal was read after %v, want once", j.reads)
	}
}

func TestWhatIsNotJournaledIsForThoseWhoAreThereWhenItComes(t *testing.T) {
	t.Parallel()
	f := stream.NewFeed(stream.FeedConfig{})
	appendAll(t, f, frame(1))
	f.AppendRaw(raw("before"))
	c, again := f.Cursor(1), f.Cursor(0)
	marked := raw("after")
	marked.Seq = 77 // a raw frame has none, whatever it says
	f.AppendRaw(marked)
	appendAll(t, f, frame(2))
	gives(t, c, "after", "2")
	gives(t, again, "1", "after", "2")
	gives(t, f.Cursor(1), "2")
	f.AppendRaw(raw("last"))
	gives(t, c, "last")
	gives(t, c)
}

func TestABatchIsBoundedInBytesAndHasOneFrameAtLeast(t *testing.T) {
	t.Parallel()
	sized := func(seq stream.Seq, n int) stream.Frame { return stream.Frame{Seq: seq, Bytes: make([]byte, n)} }
	const half = 256 << 10 / 2
	all := []stream.Frame{sized(1, 2*half+1), sized(2, half), sized(3, half), sized(4, 1), sized(5, 2*half),
		sized(6, half), sized(7, half+1)}
	want := []string{"[1]", "[2 3]", "[4]", "[5]", "[6]", "[7]"}
	for name, cfg := range map[string]stream.FeedConfig{
		"ring":    {},
		"journal": {MaxEvents: 1, Journal: &pagedJournal{first: 1, page: 9, all: all}},
	} {
		f := stream.NewFeed(cfg)
		appendAll(t, f, all...)
		c := f.Cursor(0)
		for _, w := range want {
			got, _, err := c.Next(t.Context(), make([]stream.Frame, 0, 9))
			if fmt.Sprint(names(got)) != w || err != nil {
				t.Errorf("%s: %v, %v, want %s", name, names(got), err, w)
			}
		}
	}
}

func TestTheEndOfATopologyIsTheEndOfItsStreamsWhereverTheyRead(t *testing.T) {
	t.Parallel()
	j := history(4, 9)
	j.all[2].Final = true // 4 is of another life
	for name, f := range map[string]*stream.Feed{
		"journal": stream.NewFeed(stream.FeedConfig{Base: 4, Alive: 4, Journal: j}),
		"ring":    stream.NewFeed(stream.FeedConfig{Alive: 4, Journal: j}),
	} {
		if name == "ring" {
			appendAll(t, f, j.all...)
		}
		c := f.Cursor(0)
		gives(t, c, "1", "2", "3")
		ends(t, c, stream.ErrDeleted)
		ends(t, c, stream.ErrDeleted)
		if c.Last() != 3 {
			t.Errorf("%s: ended at %d", name, c.Last())
		}
		gives(t, f.Cursor(4))
		gives(t, f.Cursor(3), "4")
	}
}

func TestACursorThatHasAllWaitsForTheNextChange(t *testing.T) {
	t.Parallel()
	isClosed := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	f := stream.NewFeed(stream.FeedConfig{})
	c, ahead := f.Cursor(0), f.Cursor(2)
	for _, change := range []func(){
		func() { f.AppendRaw(raw("x")) },
		func() { f.Append(frame(1)) },
		func() { f.Append(frame(2)) },
		func() { f.Close(stream.ErrClosed) },
	} {
		_, first, err1 := c.Next(t.Context(), make([]stream.Frame, 0, 9))
		_, second, err2 := ahead.Next(t.Context(), make([]stream.Frame, 0, 9))
		if first == nil || first != second || isClosed(first) || err1 != nil || err2 != nil {
			t.Fatalf("%v, %v, %v, %v, want one open channel", first, second, err1, err2)
		}
		if change(); !isClosed(first) {
			t.Fatal("nobody was woken")
		}
		for _, cursor := range []*stream.Cursor{c, ahead} {
			for changed := (<-chan struct{})(nil); changed == nil && f.Cause() == nil; {
				_, changed, _ = cursor.Next(t.Context(), make([]stream.Frame, 0, 9))
			}
		}
	}
}

func TestACursorTellsWhyItsFeedEnded(t *testing.T) {
	t.Parallel()
	j := history(3, 9)
	for _, cause := range []error{stream.ErrReset, stream.ErrBehind, stream.ErrClosed} {
		f := stream.NewFeed(stream.FeedConfig{Journal: j})
		appendAll(t, f, j.all[0])
		idle, behind := f.Cursor(1), f.Cursor(0)
		f.Close(cause)
		ends(t, idle, cause)
		ends(t, behind, cause)
		ends(t, f.Cursor(0), cause)
	}
	f := stream.NewFeed(stream.FeedConfig{Base: 1, Journal: j}) // who resumes a deleted topology reads the journal
	f.Close(stream.ErrDeleted)
	c := f.Cursor(0)
	gives(t, c, "1", "2", "3")
	ends(t, c, stream.ErrDeleted)
}

func TestACursorTellsWhyTheJournalCannotBeRead(t *testing.T) {
	t.Parallel()
	j := history(3, 0) // pages of nothing
	f := stream.NewFeed(stream.FeedConfig{Base: 3, Journal: j})
	ends(t, f.Cursor(1), stream.ErrReset)
	j.page, j.first = 2, 2
	ends(t, f.Cursor(0), stream.ErrReset)
	c := f.Cursor(1)
	gives(t, c, "2", "3")
	gives(t, c)
}
