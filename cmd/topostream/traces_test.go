package main

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

// A receiver is a collector: it takes spans by OTLP over HTTP.
type receiver struct {
	t   *testing.T
	url string

	mu    sync.Mutex
	spans []receivedSpan
}

type receivedSpan struct {
	*spans.Span

	service string
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{t: t}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var sent collector.ExportTraceServiceRequest
		body, err := io.ReadAll(req.Body)
		if err == nil {
			err = proto.Unmarshal(body, &sent)
		}
		if err != nil || req.URL.Path != "/v1/traces" || req.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s %s: %v", req.URL.Path, req.Header, err)
		}
		r.take(&sent)
		answer, _ := proto.Marshal(&collector.ExportTraceServiceResponse{})
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(answer) // the process may have ended
	}))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

func (r *receiver) take(sent *collector.ExportTraceServiceRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, of := range sent.GetResourceSpans() {
		service := attribute(of.GetResource().GetAttributes(), "service.name")
		for _, scope := range of.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				r.spans = append(r.spans, receivedSpan{span, service})
			}
		}
	}
}

// all gives what has come, in the order in which it began.
func (r *receiver) all() []receivedSpan {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.Clone(r.spans)
	slices.SortStableFunc(all, func(a, b receivedSpan) int {
		return cmp.Compare(a.GetStartTimeUnixNano(), b.GetStartTimeUnixNano())
	})
	return all
}

// named gives the spans of a name within a trace; of any, where that is empty.
func (r *receiver) named(trace, name string) []receivedSpan {
	return slices.DeleteFunc(r.all(), func(s receivedSpan) bool {
		return s.GetName() != name || trace != "" && s.trace() != trace
	})
}

// await waits until n spans of a name have come, and gives them.
func (r *receiver) await(trace, name string, n int) []receivedSpan {
	r.t.Helper()
	pgtest.Eventually(r.t, fmt.Sprint(n, " spans ", name), func() bool { return len(r.named(trace, name)) >= n })
	got := r.named(trace, name)
	if len(got) != n {
		r.t.Errorf("%d spans %q, want %d", len(got), name, n)
	}
	return got
}

func attribute(of []*common.KeyValue, key string) string {
	for _, kv := range of {
		if kv.GetKey() == key {
			return text(kv.GetValue())
		}
	}
	return ""
}

func text(v *common.AnyValue) string {
	switch v := v.GetValue().(type) {
	case *common.AnyValue_StringValue:
		return v.StringValue
	case *common.AnyValue_IntValue:
		return strconv.FormatInt(v.IntValue, 10)
	case *common.AnyValue_BoolValue:
		return strconv.FormatBool(v.BoolValue)
	}
	return fmt.Sprint(v)
}

func (s receivedSpan) attribute(key string) string { return attribute(s.GetAttributes(), key) }
func (s receivedSpan) trace() string               { return hex.EncodeToString(s.GetTraceId()) }
func (s receivedSpan) id() string                  { return hex.EncodeToString(s.GetSpanId()) }
func (s receivedSpan) parent() string              { return hex.EncodeToString(s.GetParentSpanId()) }

// line is a span as the tree shows it.
func (s receivedSpan) line() string {
	var line strings.Builder
	fmt.Fprintf(&line, "%s  [%s]", s.GetName(), s.service)
	for _, key := range []string{"topostream.event", "topostream.clients", "topostream.op", "topostream.attempt",
		"http.response.status_code"} {
		if v := s.attribute(key); v != "" {
			fmt.Fprintf(&line, " %s=%s", key[strings.LastIndexByte(key, '.')+1:], v)
		}
	}
	if sql := strings.Join(strings.Fields(s.attribute("db.query.text")), " "); sql != "" {
		line.WriteString(": " + sql[:min(len(sql), 60)])
	}
	return line.String()
}

// tree writes what is beneath a span, indented.
func tree(w *strings.Builder, all []receivedSpan, parent string, depth int, more func(s receivedSpan) string) {
	for _, s := range all {
		if s.parent() != parent {
			continue
		}
		indent := strings.Repeat("  ", depth)
		fmt.Fprintf(w, "%s%s\n", indent, s.line())
		if extra := more(s); extra != "" {
			fmt.Fprintf(w, "%s  %s\n", indent, extra)
		}
		tree(w, all, s.id(), depth+1, more)
	}
}

// traced is the environment of a process that sends its spans to a receiver, at once.
func (r *receiver) traced(more ...string) []string {
	return append([]string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + r.url, "OTEL_BSP_SCHEDULE_DELAY=50"}, more...)
}

// A tracedStage is a server and a worker as processes, and what the worker's applier was told of the trace.
type tracedStage struct {
	url, id string
	server  *process
	worker  *process
	told    string // a file with TRACEPARENT
}

func stageTraced(t *testing.T, binary string, db *pgtest.DB, environment ...string) *tracedStage {
	t.Helper()
	id := live(t, db.Conn(t), 1)[0]
	address := pgtest.FreeAddress(t)
	s := &tracedStage{url: "http://" + address, id: id, told: filepath.Join(t.TempDir(), "traceparent")}
	server := exec.Command(binary, "serve", "--database-url", db.URL, "--addr", address)
	server.Env = cleanEnv(append(environment, "TOPOSTREAM_JWT_SECRET="+testSecret)...)
	s.server = startProcess(t, server)
	s.server.err.await(t, "msg=serving", s.server.ended)
	worker := exec.Command(binary, "mutator", "--database-url", db.URL, "--apply-exec",
		`printf %s "$TRACEPARENT" >`+s.told+`.new && mv `+s.told+`.new `+s.told)
	worker.Env = cleanEnv(environment...)
	s.worker = startProcess(t, worker)
	s.worker.err.await(t, "working on mutations", s.worker.ended)
	return s
}

// traceparent gives what the applier was told last; empty: nothing.
func (s *tracedStage) traceparent(t *testing.T) string {
	t.Helper()
	told, err := os.ReadFile(s.told)
	if err != nil {
		t.Fatal(err)
	}
	return string(told)
}

const (
	clickTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	clickSpan   = "00f067aa0ba902b7"
	clickParent = "00-" + clickTrace + "-" + clickSpan + "-01"
)

func TestOneTraceLeadsFromTheClickToTheFrame(t *testing.T) {
	t.Parallel()
	long(t)
	binary := buildProgram(t)
	for _, engine := range []string{engineAuto, enginePortable} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			r := newReceiver(t)
			s := stageTraced(t, binary, db, r.traced("TOPOSTREAM_ENGINE="+engine)...)
			for range 2 {
				c := newClient(t, s.url, s.id, "").watch()
				c.await("a snapshot", func() bool { return len(c.snapshots) > 0 })
			}
			streams := r.await("", "GET /api/v1/topologies/{id}/events", 2) // though both are open
			admin := newOperator(t, s.url, "ada", stream.RoleAdmin)
			const lan = "nobody-else-may-read-this"
			if got := admin.do(http.MethodPost, "/topologies/"+s.id+"/mutations",
				`{"op":"add_lan","payload":{"name":"`+lan+`"}}`, "Traceparent", clickParent); got.status != http.StatusAccepted {
				t.Fatalf("%d %s", got.status, got.body)
			}
			delivered := r.await(clickTrace, "deliver", 3)
			apply := r.await(clickTrace, "apply", 1)[0]
			claim := r.await(clickTrace, "claim", 1)[0]
			post := r.await(clickTrace, "POST /api/v1/topologies/{id}/mutations", 1)[0]

			res := open(t, s.url+"/api/v1/topologies/"+s.id+"/events?graph=1", "Traceparent", clickParent)
			if first := firstEvent(t, res.Body); first != "snapshot" {
				t.Errorf("a stream begins with %s", first)
			}
			_ = res.Body.Close() // its beginning is wanted
			watched := r.await(clickTrace, "GET /api/v1/topologies/{id}/events", 1)[0]
			attach := r.await(clickTrace, "attach", 1)[0]
			document := r.await(clickTrace, "document", 1)[0]
			admin.do(http.MethodGet, "/topologies/"+s.id+"/journal", "", "Traceparent", clickParent).into(t, http.StatusOK,
				new(any))
			journal := r.await(clickTrace, "GET /api/v1/topologies/{id}/journal", 1)[0]
			read := r.await(clickTrace, "journal read", 1)[0]

			all := slices.DeleteFunc(r.all(), func(s receivedSpan) bool { return s.trace() != clickTrace })
			var text strings.Builder
			tree(&text, all, clickSpan, 1, func(span receivedSpan) string {
				if span.id() == apply.id() {
					return "applier  [sh] TRACEPARENT=" + s.traceparent(t)
				}
				return ""
			})
			t.Logf("the trace %s:\nthe click  [browser]\n%s", clickTrace, text.String())

			if post.parent() != clickSpan || post.service != "topostream" {
				t.Errorf("the POST is beneath %s, of %s", post.parent(), post.service)
			}
			if watched.parent() != clickSpan || attach.parent() != watched.id() || document.parent() != attach.id() {
				t.Errorf("the stream is beneath %s, its attach beneath %s, the document beneath %s",
					watched.parent(), attach.parent(), document.parent())
			}
			if journal.parent() != clickSpan || read.parent() != journal.id() {
				t.Errorf("the journal is beneath %s, its read beneath %s", journal.parent(), read.parent())
			}
			if !slices.ContainsFunc(all, func(s receivedSpan) bool {
				return s.parent() == post.id() && strings.Contains(s.attribute("db.query.text"), "INSERT INTO mutations")
			}) {
				t.Error("the INSERT is not beneath the POST")
			}
			if claim.parent() != post.id() || claim.service != "topostream-mutator" || apply.parent() != claim.id() {
				t.Errorf("the claim is beneath %s, of %s, the apply beneath %s", claim.parent(), claim.service, apply.parent())
			}
			if want := "00-" + clickTrace + "-" + apply.id() + "-01"; s.traceparent(t) != want {
				t.Errorf("the applier was told %q, want %q", s.traceparent(t), want)
			}
			if !slices.ContainsFunc(all, func(s receivedSpan) bool {
				return s.parent() == apply.id() && strings.Contains(s.attribute("db.query.text"), "'applied'")
			}) {
				t.Error("what records the end is not beneath the apply")
			}
			events := make([]string, 0, len(delivered))
			for _, d := range delivered {
				events = append(events, d.attribute("topostream.event")+" to "+d.attribute("topostream.clients"))
				if d.parent() != post.id() || d.GetEndTimeUnixNano() < d.GetStartTimeUnixNano() {
					t.Errorf("a delivery is beneath %s, and ends before it begins: %v", d.parent(), d)
				}
			}
			want := []string{"mutation.enqueued to 2", "mutation.applying to 2", "mutation.applied to 2"}
			if !slices.Equal(events, want) {
				t.Errorf("delivered: %q", events)
			}
			for _, span := range streams {
				if span.attribute("http.response.status_code") != "200" || span.attribute("http.route") == "" {
					t.Errorf("a stream's span: %v", span)
				}
			}
			for _, span := range r.all() {
				if strings.Contains(span.String(), lan) {
					t.Errorf("a span holds a parameter: %v", span)
				}
			}
		})
	}
}

func TestAStrangersTraceparentIsNotBelievedAndNoSpanHoldsAQuery(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	r := newReceiver(t)
	s := stageTraced(t, buildProgram(t), db, r.traced()...)
	admin := newOperator(t, s.url, "ada", stream.RoleAdmin)
	nobody := &operator{t, admin.base, ""}
	long := strings.Repeat("x", 20_000)
	nobody.do(http.MethodGet, "/topologies/"+s.id, "", "Traceparent", clickParent, "Tracestate", "a=b",
		"User-Agent", long, "X-Forwarded-For", "203.0.113.7")
	nobody.do(http.MethodGet, "/topologies/"+s.id+"/events?ticket=stolen-ticket", "", "Traceparent", clickParent)
	token := admin.token
	nobody.do(http.MethodGet, "/topologies?limit=7&token="+token, "", "Traceparent", clickParent)
	ticket := admin.do(http.MethodPost, "/auth/sse-ticket", "")
	nobody.do(http.MethodHead, "/topologies/"+s.id+"/events?ticket="+ticketOf(t, ticket.body), "", "Traceparent",
		clickParent)

	refused := r.await("", "GET /api/v1/topologies/{id}", 1)[0]
	r.await("", "GET /api/v1/topologies/{id}/events", 1)
	believed := r.await("", "GET /api/v1/topologies", 1)[0]
	redeemed := r.await("", "HEAD /api/v1/topologies/{id}/events", 1)[0]
	if refused.attribute("http.response.status_code") != "401" || len(refused.GetLinks()) > 0 {
		t.Errorf("the refused request: %v", refused)
	}
	if a := refused.attribute("client.address"); a != "127.0.0.1" {
		t.Errorf("the client's address is %q", a)
	}
	for _, span := range []receivedSpan{believed, redeemed} {
		if span.parent() != clickSpan {
			t.Errorf("a request with a good credential is beneath %q", span.parent())
		}
	}
	for _, span := range r.all() {
		if span.trace() == clickTrace && span.parent() == clickSpan && span.id() != believed.id() &&
			span.id() != redeemed.id() {
			t.Errorf("a stranger wrote into the trace: %v", span)
		}
		whole := span.String()
		for _, secret := range []string{token, "stolen-ticket", ticketOf(t, ticket.body), "limit=7", long[:2100]} {
			if strings.Contains(whole, secret) {
				t.Errorf("a span holds %.30s", secret)
			}
		}
		for _, kv := range span.GetAttributes() {
			if kv.GetKey() == "url.query" || kv.GetKey() == "url.full" {
				t.Errorf("a span has %s", kv.GetKey())
			}
		}
	}
}

func ticketOf(t *testing.T, body string) string {
	t.Helper()
	_, rest, ok := strings.Cut(body, `"ticket":"`)
	ticket, _, _ := strings.Cut(rest, `"`)
	if !ok || ticket == "" {
		t.Fatalf("no ticket: %s", body)
	}
	return ticket
}

func TestNothingIsTracedUnlessTheEnvironmentAsksForIt(t *testing.T) {
	t.Parallel()
	long(t)
	r, binary := newReceiver(t), buildProgram(t)
	for name, environment := range map[string][]string{
		"unset":    nil,
		"disabled": r.traced("OTEL_SDK_DISABLED=true"),
		"none":     r.traced("OTEL_TRACES_EXPORTER=none"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			s := stageTraced(t, binary, db, environment...)
			c := newClient(t, s.url, s.id, "").watch()
			c.await("a snapshot", func() bool { return len(c.snapshots) > 0 })
			admin := newOperator(t, s.url, "ada", stream.RoleAdmin)
			admin.do(http.MethodPost, "/topologies/"+s.id+"/mutations", `{"op":"add_lan","payload":{"name":"a"}}`,
				"Traceparent", clickParent)
			c.await("the end", func() bool {
				return slices.ContainsFunc(c.data, func(e string) bool { return strings.Contains(e, `"mutation.applied"`) })
			})
			if told := s.traceparent(t); told != "" {
				t.Errorf("the applier was told %q", told)
			}
			if n := pgtest.Scan[int](t, db.Conn(t), `SELECT count(traceparent) FROM mutations`); n != 0 {
				t.Error("the mutation has a trace")
			}
			<-s.worker.signal(syscall.SIGINT)
			<-s.server.signal(syscall.SIGINT)
			if got := r.all(); len(got) > 0 {
				t.Errorf("%d spans came", len(got))
			}
		})
	}
}

func TestACollectorThatCannotBeReachedKeepsNobodyAndIsLoggedOnce(t *testing.T) {
	t.Parallel()
	long(t)
	l, err := net.Listen("tcp", "127.0.0.1:0") // which takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // nothing is left to come
	binary := buildProgram(t)
	for name, endpoint := range map[string]string{
		"nobody there": "http://" + pgtest.FreeAddress(t), "silent": "http://" + l.Addr().String(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := stageTraced(t, binary, pgtest.New(t), "OTEL_EXPORTER_OTLP_ENDPOINT="+endpoint, "OTEL_BSP_SCHEDULE_DELAY=10",
				"OTEL_BSP_EXPORT_TIMEOUT=600000", "OTEL_EXPORTER_OTLP_TIMEOUT=600000", "OTEL_BSP_MAX_QUEUE_SIZE=16",
				"OTEL_BSP_MAX_EXPORT_BATCH_SIZE=4")
			c := newClient(t, s.url, s.id, "").watch()
			admin := newOperator(t, s.url, "ada", stream.RoleAdmin)
			for range 100 {
				admin.do(http.MethodGet, "/topologies/"+s.id, "").into(t, http.StatusOK, new(any))
			}
			admin.do(http.MethodPost, "/topologies/"+s.id+"/mutations", `{"op":"add_lan","payload":{"name":"a"}}`)
			c.await("the end", func() bool {
				return slices.ContainsFunc(c.data, func(e string) bool { return strings.Contains(e, `"mutation.applied"`) })
			})
			for _, p := range []*process{s.worker, s.server} { // startProcess kills it after half a minute
				<-p.signal(syscall.SIGINT)
				if code := p.cmd.ProcessState.ExitCode(); code != exitOK {
					t.Errorf("exit code %d: %s", code, p.err.String())
				}
			}
			if n := strings.Count(s.server.err.String(), "traces cannot be sent"); n != 1 {
				t.Errorf("the log says %d times that traces cannot be sent: %s", n, s.server.err.String())
			}
		})
	}
}

func TestDevSendsWhatItHasWhenItEnds(t *testing.T) {
	t.Parallel()
	long(t)
	r := newReceiver(t)
	cmd := exec.Command(buildProgram(t), "dev", "--addr", "127.0.0.1:0", "--data-dir", pgtest.OpenDir(t))
	cmd.Env = cleanEnv("OTEL_EXPORTER_OTLP_ENDPOINT="+r.url, "OTEL_BSP_SCHEDULE_DELAY=3600000",
		"OTEL_SERVICE_NAME=mine", "OTEL_TRACES_SAMPLER=always_on")
	d := startDev(t, cmd)
	address, _, _ := strings.Cut(d.console, "/#")
	admin := &operator{t, address + "/api/v1", d.token}
	admin.do(http.MethodGet, "/topologies/"+d.id, "").into(t, http.StatusOK, new(any))
	if got := r.all(); len(got) > 0 {
		t.Errorf("%d spans came before", len(got))
	}
	<-d.signal(syscall.SIGINT)
	got := r.named("", "GET /api/v1/topologies/{id}")
	if len(got) != 1 || got[0].service != "mine" {
		t.Errorf("%d spans came at the end: %v", len(got), got)
	}
	if strings.Contains(fmt.Sprint(r.all()), d.token) {
		t.Error("a span holds the token")
	}
}
