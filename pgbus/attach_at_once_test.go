package pgbus

import (
	"testing"
	"time"

	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

// clientsOf counts those of an attachment.
func clientsOf(b *Bus, a *attachment) int {
	b.registry.mu.Lock()
	defer b.registry.mu.Unlock()
	return a.clients
}

// Were it counted as one, the attachment would be kept for a client that it does not have.
func TestWhoCannotBeServedFromMemoryIsNoClientOfTheAttachment(t *testing.T) {
	t.Parallel()
	const epoch = stream.Seq(2) << 32
	b := loneBus(t, nil)
	a := placed(t, b, epoch+5) // with one client
	for name, req := range map[string]stream.AttachRequest{
		"a document that nobody has read":  {Topology: "a"},
		"a number of an earlier history":   {Topology: "a", Resume: true, After: epoch>>1 + 5},
		"the newest of an earlier history": {Topology: "a", Resume: true, After: epoch - 1},
		"a number of a later history":      {Topology: "a", Resume: true, After: 2*epoch + 5},
		"a number that is not known":       {Topology: "a", Resume: true, After: epoch + 6},
		"another topology":                 {Topology: "b"},
	} {
		if sub := b.AttachAtOnce(req); sub != nil {
			t.Errorf("%s: the client is at %d", name, sub.Cursor.Last())
		}
		if n := clientsOf(b, a); n != 1 {
			t.Errorf("%s: %d clients", name, n)
		}
	}
	a.feed.SetDocument(stream.NewSnapshot(epoch+5, []byte("document"), nil))
	if b.AttachAtOnce(stream.AttachRequest{Topology: "a", Graph: true}) != nil || clientsOf(b, a) != 1 {
		t.Errorf("a document of another form: %d clients", clientsOf(b, a))
	}
	if n := metrictest.Value(b.stats.Attaches); n != 0 {
		t.Errorf("%d attaches", n)
	}
	b.registry.release(a)
	b.registry.expire(time.Now()) // what lingers for nobody
	if b.registry.find("a") != nil || b.AttachAtOnce(stream.AttachRequest{Topology: "a"}) != nil {
		t.Error("the attachment is kept for nobody")
	}
}

func TestWhoIsServedFromMemoryIsAClientUntilItCloses(t *testing.T) {
	t.Parallel()
	const epoch = stream.Seq(2) << 32
	b := loneBus(t, nil)
	a := placed(t, b, epoch+5) // with one client
	a.feed.SetDocument(stream.NewSnapshot(epoch+5, []byte("document"), nil))
	for _, req := range []stream.AttachRequest{
		{Topology: "a"},
		{Topology: "a", Resume: true, After: epoch + 5},
		{Topology: "a", Resume: true, Graph: true, After: epoch + 4}, // the journal has what follows
	} {
		sub := b.AttachAtOnce(req)
		if sub == nil {
			t.Fatalf("%+v: it would have to wait", req)
		}
		if n := clientsOf(b, a); n != 2 {
			t.Errorf("%+v: %d clients", req, n)
		}
		sub.GiveBack()
		if sub.Close(); clientsOf(b, a) != 1 {
			t.Errorf("%+v: %d clients after it", req, clientsOf(b, a))
		}
	}
	if n := metrictest.Value(b.stats.Attaches); n != 3 {
		t.Errorf("%d attaches", n)
	}
}

func TestNobodyIsServedFromMemoryOfABusThatIsClosed(t *testing.T) {
	t.Parallel()
	b := loneBus(t, nil)
	a := placed(t, b, 5)
	a.feed.SetDocument(stream.NewSnapshot(5, []byte("document"), nil))
	b.close()
	for _, req := range []stream.AttachRequest{{Topology: "a"}, {Topology: "a", Resume: true, After: 5}} {
		if sub := b.AttachAtOnce(req); sub != nil || clientsOf(b, a) != 1 {
			t.Errorf("%+v: %v; %d clients", req, sub, clientsOf(b, a))
		}
		if _, err := b.Attach(t.Context(), req); err != stream.ErrClosed { //nolint:errorlint // the sentinel itself
			t.Errorf("%+v: %v", req, err)
		}
	}
}
