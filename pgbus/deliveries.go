package pgbus

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	lru "github.com/hashicorp/golang-lru/v2"

	"topostream/stream"
)

const (
	// deliveryWindow is how long an event's clients are counted, if they do not all have it before.
	deliveryWindow = 5 * time.Second
	// deliveryTick is how often the traces of mutations are looked up, and finished spans are made.
	deliveryTick = 50 * time.Millisecond
	// maxPending bounds the events that are counted at once; more have no span.
	maxPending = 1024
	// parentsKept bounds the mutations whose trace is remembered: each has three events or more.
	parentsKept = 4096
)

// deliveries make the span `deliver` of each event of a mutation whose request was traced: from when this server got
// the event until it was written to the last of the clients that there were then. The trace is looked up in the
// mutation's row after the event has gone out, so that neither events nor frames hold it and no client waits for it.
type deliveries struct {
	tracer trace.Tracer
	pool   *pgxpool.Pool
	log    *slog.Logger

	news    chan *pendingDelivery      // events that have been appended
	done    chan *stream.Delivery      // of those, the ones that all clients have
	parents *lru.Cache[string, string] // traceparents by mutation; empty: it was not traced
}

// A pendingDelivery is an event whose clients are counted.
type pendingDelivery struct {
	*stream.Delivery

	feed     *stream.Feed
	topology stream.TopologyID
	frame    []byte
	began    time.Time

	event, mutation string // its type, and the mutation's id: set by read
	finished        bool   // all clients have it
}

func newDeliveries(tracer trace.Tracer, pool *pgxpool.Pool, log *slog.Logger) *deliveries {
	parents, err := lru.New[string, string](parentsKept)
	if err != nil {
		panic(err) // the size is good
	}
	return &deliveries{
		tracer: tracer, pool: pool, log: log, parents: parents,
		news: make(chan *pendingDelivery, maxPending), done: make(chan *stream.Delivery, maxPending),
	}
}

// begin begins to count the clients that an event, which is about to be appended, is written to. It gives nil where
// that has no use: the event is of no mutation, there are no clients, or nothing is traced.
func (d *deliveries) begin(a *attachment, fr stream.Frame, clients func(*attachment) int) *pendingDelivery {
	if d == nil || !bytes.HasPrefix(fr.Bytes, []byte("event: mutation.")) {
		return nil
	}
	wanted := int64(clients(a))
	p := &pendingDelivery{
		Delivery: &stream.Delivery{Seq: fr.Seq, Wanted: wanted, Done: d.done},
		feed:     a.feed, topology: a.id, frame: fr.Bytes, began: time.Now(),
	}
	if wanted == 0 || fr.Seq <= a.feed.Last() || !a.feed.Count(p.Delivery) {
		return nil
	}
	return p
}

// appended hands an event that was appended to run; it ends the count of one that was not, or that run has no room for.
func (d *deliveries) appended(p *pendingDelivery, result stream.AppendResult) {
	if p == nil {
		return
	}
	if result == stream.Appended {
		select {
		case d.news <- p:
			return
		default:
		}
	}
	p.feed.Uncount(p.Delivery)
}

// run makes the spans until ctx ends, and then those that are left.
func (d *deliveries) run(ctx context.Context) {
	tick := time.NewTicker(deliveryTick)
	defer tick.Stop()
	var (
		pending []*pendingDelivery
		byCount = map[*stream.Delivery]*pendingDelivery{}
	)
	for {
		select {
		case <-ctx.Done():
			d.makeSpans(context.WithoutCancel(ctx), pending, time.Time{})
			return
		case p := <-d.news:
			if len(pending) >= maxPending || !p.read() {
				p.feed.Uncount(p.Delivery)
				continue
			}
			pending = append(pending, p)
			byCount[p.Delivery] = p
			n, _ := p.Clients()
			p.finished = n >= p.Wanted // before it was known here
		case counted := <-d.done:
			if p := byCount[counted]; p != nil {
				p.finished = true
			}
		case now := <-tick.C:
			if len(pending) == 0 {
				continue
			}
			left := d.makeSpans(ctx, pending, now.Add(-deliveryWindow))
			clear(pending[len(left):])
			if pending = left; len(byCount) != len(pending) {
				clear(byCount)
				for _, p := range pending {
					byCount[p.Delivery] = p
				}
			}
		}
	}
}

// read finds in the frame which mutation the event is about.
func (p *pendingDelivery) read() bool {
	_, data, _ := bytes.Cut(p.frame, []byte("\ndata: "))
	var event struct {
		Type    string `json:"type"`
		Payload struct {
			Mutation string `json:"mutation_id"`
		} `json:"payload"`
	}
	if err := json.Unmarshal(data, &event); err != nil {
		return false
	}
	p.event, p.mutation, p.frame = event.Type, event.Payload.Mutation, nil
	return p.mutation != ""
}

// makeSpans makes the spans of the events that all clients have, and of those that began before a time (zero: of all).
// It gives those that are left, among them events whose mutation was not found: the WAL may tell of one that no
// statement sees yet.
func (d *deliveries) makeSpans(ctx context.Context, pending []*pendingDelivery, before time.Time) []*pendingDelivery {
	d.lookUp(ctx, pending)
	left := pending[:0]
	for _, p := range pending {
		parent, known := d.parents.Get(p.mutation)
		over := before.IsZero() || p.began.Before(before)
		switch {
		case known && parent == "":
		case known && (p.finished || over):
			d.span(p, parent)
		case !over:
			left = append(left, p)
			continue
		}
		p.feed.Uncount(p.Delivery)
	}
	return left
}

// lookUp reads the traceparents of the mutations that are not among parents yet.
func (d *deliveries) lookUp(ctx context.Context, pending []*pendingDelivery) {
	const query = `SELECT id::text, coalesce(traceparent, '') FROM mutations WHERE id = ANY ($1::text[]::uuid[])`
	var ids []string
	for _, p := range pending {
		if !d.parents.Contains(p.mutation) {
			ids = append(ids, p.mutation)
		}
	}
	if len(ids) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var id, parent string
	rows, err := d.pool.Query(ctx, query, ids)
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&id, &parent}, func() error {
			d.parents.Add(id, parent)
			return nil
		})
	}
	if err != nil {
		d.log.Debug("could not ask of which traces mutations are", "error", err)
	}
}

// span makes the span of an event, which has been delivered.
func (d *deliveries) span(p *pendingDelivery, parent string) {
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": parent})
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return // somebody wrote a traceparent by hand that is none
	}
	n, last := p.Clients()
	if n == 0 {
		last = time.Now()
	}
	_, span := d.tracer.Start(ctx, "deliver", trace.WithTimestamp(p.began), trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(
			attribute.String("topostream.topology", string(p.topology)),
			attribute.String("topostream.mutation", p.mutation),
			attribute.String("topostream.event", p.event),
			attribute.Int64("topostream.seq", int64(p.Seq)),
			attribute.Int64("topostream.clients", n),
		))
	span.End(trace.WithTimestamp(last))
}
