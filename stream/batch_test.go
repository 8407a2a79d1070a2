package stream_test

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"topostream/stream"
)

// Clients of one feed share a batch, are written as much of it as their sockets take, and give the rest back.
func TestCursorsThatShareABatchAndGivePartsBackGetEveryFrameOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		journal := history(60, 7)
		feed := stream.NewFeed(stream.FeedConfig{Journal: journal, MaxEvents: 8})
		type client struct {
			cursor *stream.Cursor
			got    []string
		}
		var clients []*client
		next := 0
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(*rapid.T) {
				if next < len(journal.all) {
					feed.Append(journal.all[next])
					next++
				}
			},
			"raw": func(rt *rapid.T) {
				feed.AppendRaw(raw(rapid.StringMatching(`[a-z]`).Draw(rt, "raw")))
			},
			"join": func(*rapid.T) { clients = append(clients, &client{cursor: feed.Cursor(0)}) },
			"walk": func(rt *rapid.T) {
				b := stream.NewBatch(rapid.IntRange(1, 6).Draw(rt, "room"))
				for _, c := range clients {
					behind, err := c.cursor.Take(b)
					if err != nil {
						rt.Fatal(err)
					}
					if behind {
						if err := c.cursor.Read(t.Context()); err != nil {
							rt.Fatal(err)
						}
						if _, err := c.cursor.Take(b); err != nil || len(b.Frames) == 0 {
							rt.Fatal(err)
						}
					}
					n := rapid.IntRange(0, len(b.Frames)).Draw(rt, "written")
					if all := slices.Concat(bytesOf(b.Frames)...); !bytes.Equal(all, b.Bytes()) {
						rt.Fatalf("%q, want %q", b.Bytes(), all)
					}
					c.got = append(c.got, names(b.Frames[:n])...)
					c.cursor.GiveBack(b, n)
				}
			},
			"": func(rt *rapid.T) {
				for _, c := range clients {
					seq := 0
					for _, name := range c.got {
						if name[0] >= '0' && name[0] <= '9' {
							if seq++; name != stream.Seq(seq).String() {
								rt.Fatalf("%v", c.got)
							}
						}
					}
				}
			},
		})
	})
}

func bytesOf(frames []stream.Frame) (all [][]byte) {
	for _, fr := range frames {
		all = append(all, fr.Bytes)
	}
	return all
}

func TestAClientThatGivesBackWhatIsNotJournaledGetsItAgain(t *testing.T) {
	t.Parallel()
	feed := stream.NewFeed(stream.FeedConfig{})
	first, second := feed.Cursor(0), feed.Cursor(0)
	appendAll(t, feed, frame(1))
	feed.AppendRaw(raw("a"))
	feed.AppendRaw(raw("b"))
	appendAll(t, feed, frame(2))
	b := stream.NewBatch(8)
	for _, c := range []*stream.Cursor{first, second} {
		if _, err := c.Take(b); err != nil || !b.All || !slices.Equal(names(b.Frames), []string{"1", "a", "b", "2"}) {
			t.Fatal(names(b.Frames), b.All, err)
		}
		c.GiveBack(b, 2)
	}
	gives(t, first, "b", "2")
	gives(t, second, "b", "2")
}

func TestAnEmptyBatchSaysNothingAboutWhatComesLater(t *testing.T) {
	t.Parallel()
	feed := stream.NewFeed(stream.FeedConfig{})
	c, b := feed.Cursor(0), stream.NewBatch(8)
	if _, err := c.Take(b); err != nil || len(b.Frames) != 0 {
		t.Fatal(b.Frames, err)
	}
	appendAll(t, feed, frame(1))
	if _, err := c.Take(b); err != nil || len(b.Frames) != 1 {
		t.Fatal(b.Frames, err)
	}
}

// A client whose number another server gave waits for its feed at the same place as one that has all of it.
func TestACursorAheadOfItsFeedSharesNothingThatItHas(t *testing.T) {
	t.Parallel()
	feed := stream.NewFeed(stream.FeedConfig{Base: 7})
	here, ahead, b := feed.Cursor(7), feed.Cursor(9), stream.NewBatch(8)
	appendAll(t, feed, frame(8), frame(9), frame(10))
	for c, want := range map[*stream.Cursor][]string{here: {"8", "9", "10"}, ahead: {"10"}} {
		if _, err := c.Take(b); err != nil || !slices.Equal(names(b.Frames), want) {
			t.Errorf("%v, want %v, %v", names(b.Frames), want, err)
		}
	}
}
