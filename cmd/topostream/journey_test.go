package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/cmd/topocheck/check"
	"topostream/harness/token"
	"topostream/pgbus/pgtest"
	"topostream/pgbus/setting"
	"topostream/stream"
)

// Surroundings are a database, a role that owns it and is no superuser, and how both are set up.
type surroundings struct {
	name     string
	encoding string   // the database's; UTF8 if it is empty
	before   []string // what a superuser does before anything of ours: {role} and {database} stand for the two
	after    []string // what the owner does when the schema is there
	keywords string   // of the connection strings
	socket   bool     // by a unix socket, to a PostgreSQL of its own
	wal      bool     // what is odd here matters to the bus wal above all
}

// everySurroundings are the rows of the matrix.
func everySurroundings(t *testing.T) []surroundings {
	t.Helper()
	all := []surroundings{
		{name: "nothing unusual"},

		{name: "a database in LATIN1", encoding: "LATIN1"},
		{name: "a database in EUC_JP", encoding: "EUC_JP"},
		{name: "a database in SQL_ASCII", encoding: "SQL_ASCII"},
		{name: "client_encoding SJIS", before: set("client_encoding", "'SJIS'")},
		{name: "client_encoding EUC_JP", before: set("client_encoding", "'EUC_JP'")},
		{name: "client_encoding LATIN1", before: set("client_encoding", "'LATIN1'")},

		{name: "how text is read", before: slices.Concat(
			set("standard_conforming_strings", "off"), set("backslash_quote", "on"), set("escape_string_warning", "on"),
			set("quote_all_identifiers", "on"), set("transform_null_equals", "on"), set("array_nulls", "off"),
			set("xmlbinary", "hex"), set("plpgsql.variable_conflict", "use_variable"))},
		{name: "columns before variables", before: set("plpgsql.variable_conflict", "use_column")},
		{name: "how times are written", before: slices.Concat(
			set("DateStyle", "'SQL, DMY'"), set("IntervalStyle", "'sql_standard'"), set("TimeZone", "'Asia/Kathmandu'"))},
		{name: "how numbers are written", before: slices.Concat(
			set("extra_float_digits", "0"), set("bytea_output", "'escape'"),
			set("lc_numeric", "'C'"), set("lc_monetary", "'C'"), set("lc_time", "'C'"), set("lc_messages", "'C'"))},
		{name: "how transactions begin", before: slices.Concat(
			set("default_transaction_isolation", "'serializable'"), set("default_transaction_deferrable", "on"),
			set("synchronous_commit", "off"))},
		{name: "how queries are planned", before: slices.Concat(
			set("jit_above_cost", "0"), set("plan_cache_mode", "'force_generic_plan'"), set("enable_seqscan", "off"),
			set("row_security", "off"), set("constraint_exclusion", "on"))},
		{name: "how long things may take", before: slices.Concat(
			set("statement_timeout", "'20s'"), set("lock_timeout", "'10s'"),
			set("idle_in_transaction_session_timeout", "'10s'"))},

		{name: "a schema of the role's name", before: []string{`CREATE SCHEMA AUTHORIZATION {role}`}},
		{name: "a search path", before: append(
			[]string{`CREATE SCHEMA topo AUTHORIZATION {role}`}, set("search_path", "topo, public")...)},
		{name: "all names used by others", before: []string{
			`CREATE SCHEMA others; GRANT USAGE ON SCHEMA others TO {role}`,
			`CREATE FUNCTION others.pg_notify(text, text) RETURNS void LANGUAGE sql AS 'SELECT'`,
			`CREATE FUNCTION others.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT ''epoch''::timestamptz'`,
			`ALTER ROLE {role} IN DATABASE {database} SET search_path = public, others, pg_catalog`}},

		{name: "columns of every name", after: addedColumns(t)},
		{name: "triggers of their own", after: theirTriggers()},

		{name: "simple protocol", keywords: "default_query_exec_mode=simple_protocol"},
		{name: "exec", keywords: "default_query_exec_mode=exec"},
		{name: "cache_describe", keywords: "default_query_exec_mode=cache_describe"},
		{name: "describe_exec", keywords: "default_query_exec_mode=describe_exec"},
		{name: "simple protocol, numbers", keywords: "default_query_exec_mode=simple_protocol", before: slices.Concat(
			set("extra_float_digits", "0"), set("bytea_output", "'escape'"), set("DateStyle", "'SQL, DMY'"),
			set("IntervalStyle", "'postgres_verbose'"), set("array_nulls", "off"))},
		{name: "exec, numbers", keywords: "default_query_exec_mode=exec", before: slices.Concat(
			set("extra_float_digits", "0"), set("bytea_output", "'escape'"), set("DateStyle", "'German'"))},
		{name: "keywords of libpq and pgxpool", keywords: "pool_max_conns=4&gssencmode=prefer&keepalives=1&" +
			"sslcompression=0&fallback_application_name=x&load_balance_hosts=disable&client_encoding=auto"},
	}
	if !testing.Short() {
		all = append(all, surroundings{name: "a unix socket", socket: true})
	}
	for _, schema := range []string{
		`o'brien`, strings.Repeat("ж", 30), `Mixed Case`, `a"b`, `select`, `a$b$`, `100%s`, `{{.schema}}`, `a.b`, `a\b`,
	} {
		quoted := pgx.Identifier{schema}.Sanitize()
		all = append(all, surroundings{
			name: "a schema called " + schema, wal: len(schema) > 32, // the publication's name has 63 bytes
			before: append([]string{`CREATE SCHEMA ` + quoted + ` AUTHORIZATION {role}`}, set("search_path", quoted)...),
		})
	}
	return all
}

// set gives a setting to the owner, in whatever it does in this database.
func set(name, value string) []string {
	return []string{`ALTER ROLE {role} IN DATABASE {database} SET ` + name + ` = ` + value}
}

func addedColumns(t *testing.T) (statements []string) {
	t.Helper()
	for _, table := range []string{"topologies", "mutations", "lans", "deckies", "edges"} {
		for _, column := range pgtest.OurNames(t) {
			statements = append(statements, `ALTER TABLE `+table+` ADD COLUMN IF NOT EXISTS "`+column+`" text`)
		}
	}
	return statements
}

func theirTriggers() []string {
	statements := []string{
		`CREATE TABLE seen (n bigint GENERATED ALWAYS AS IDENTITY, what text)`,
		`CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $f$
			BEGIN
				INSERT INTO seen (what) VALUES (TG_TABLE_NAME || ' ' || TG_OP);
				RETURN coalesce(NEW, OLD);
			END $f$`,
		`CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $f$
			BEGIN
				UPDATE topologies SET reason = reason WHERE id = NEW.topology_id;
				RETURN NULL;
			END $f$`,
		`CREATE TRIGGER a_touch AFTER UPDATE ON mutations FOR EACH ROW EXECUTE FUNCTION touch()`,
		`CREATE TRIGGER z_touch AFTER INSERT ON lans FOR EACH ROW EXECUTE FUNCTION touch()`,
	}
	for _, table := range []string{"topologies", "mutations", "lans", "deckies", "edges"} {
		for _, when := range []string{"BEFORE", "AFTER"} {
			for _, order := range []string{"a", "z"} { // before ours and after them
				statements = append(statements, fmt.Sprintf(
					`CREATE TRIGGER %s_%s %s INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION note()`,
					order, strings.ToLower(when), when, table))
			}
		}
	}
	return statements
}

// TestTheMainJourneyInEverySurroundings runs migrate, serve, mutator, tail, REST, ticket and the switch of the bus in
// each of the surroundings, and has the checker judge what comes of it. With TOPOSTREAM_LONG=1 all rows go from bus to
// bus and back, and the checker takes its time; without it the first does, and the others have one bus or the other;
// with -race or -short only one row in six is there: the gate runs them all in a step of its own. With -v it prints the
// matrix.
func TestTheMainJourneyInEverySurroundings(t *testing.T) {
	t.Parallel()
	var m matrix
	t.Cleanup(func() { t.Log("\n" + m.String()) })
	for i, s := range everySurroundings(t) {
		if (raceDetector || testing.Short()) && i%6 > 0 {
			continue
		}
		buses := []string{setting.Notify, setting.WAL, setting.Notify}
		switch {
		case testing.Short():
			buses = buses[:1]
		case i > 0 && !isAlone():
			buses = buses[i%2:][:1]
			if s.wal {
				buses = []string{setting.WAL}
			}
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			s.journey(t, buses, &m)
		})
	}
}

// A matrix is what came of each step in each of the surroundings.
type matrix struct {
	mu    sync.Mutex
	steps []string // in their order
	rows  map[string]map[string]string
}

func (m *matrix) set(row, step, verdict string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rows == nil {
		m.rows = map[string]map[string]string{}
	}
	if m.rows[row] == nil {
		m.rows[row] = map[string]string{}
	}
	m.rows[row][step] = verdict
	if !slices.Contains(m.steps, step) {
		m.steps = append(m.steps, step)
	}
}

// String gives a table in Markdown.
func (m *matrix) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "| | %s |\n|---|%s\n", strings.Join(m.steps, " | "), strings.Repeat("---|", len(m.steps)))
	for _, row := range slices.Sorted(maps.Keys(m.rows)) {
		fmt.Fprintf(&b, "| %s |", row)
		for _, step := range m.steps {
			fmt.Fprintf(&b, " %s |", cmp.Or(m.rows[row][step], "–"))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (s surroundings) journey(t *testing.T, buses []string, m *matrix) {
	t.Helper()
	step := func(name string, do func()) {
		m.set(s.name, name, "failed")
		do()
		if !t.Failed() {
			m.set(s.name, name, "ok")
		}
	}
	encoding := s.encoding
	if encoding == "" {
		encoding = "UTF8"
	}
	owner, superuser := pgtest.NewOwned(t, "owner", encoding)
	if s.socket {
		owner, superuser = onASocket(t, encoding)
	}
	s.prepare(t, owner, superuser)
	// Sessions of people are psql's, which knows nothing of our keywords.
	ours := owner.URL
	if s.keywords != "" {
		ours += map[bool]string{true: "&", false: "?"}[strings.Contains(ours, "?")] + s.keywords
	}
	step("migrate", func() {
		if code, out, errOut := program(t, "migrate", "up", "--database-url", ours); code != exitOK {
			t.Fatalf("migrate up: %d %s%s", code, out, errOut)
		}
	})
	for _, statement := range s.after {
		owner.Exec(t, statement)
	}
	j := &journey{t: t, owner: owner, url: ours}
	step("serve", func() {
		server := serve(t, ours, func(c *serveCmd) { c.Mutator = true })
		j.server, j.stop = server.url, server.stop
	})
	step("REST, ticket, tail", j.begin)
	for i, bus := range buses {
		name := bus
		if i > 1 {
			name += " again"
		}
		step("bus "+name, func() { j.onBus(bus, i > 0 || bus == setting.WAL) })
		step("edits on "+name, func() { j.edit(bus + strconv.Itoa(i)) })
		step("checker on "+name, j.check)
	}
	step("content", j.end)
	step("new epoch, repair, status, down", j.administer)
}

// administer runs the commands that are left, and sees the client through a new epoch.
func (j *journey) administer() {
	j.t.Helper()
	j.client.mu.Lock()
	snapshots := len(j.client.snapshots)
	j.client.mu.Unlock()
	command := func(args ...string) {
		j.t.Helper()
		if code, out, errOut := program(j.t, append(args, "--database-url", j.url)...); code != exitOK {
			j.t.Fatalf("%s: %d %s%s", strings.Join(args, " "), code, out, errOut)
		}
	}
	command("migrate", "new-epoch")
	j.client.await("a snapshot of the new epoch", func() bool { return len(j.client.snapshots) > snapshots })
	command("migrate", "repair")
	command("migrate", "status")
	j.stop()
	command("migrate", "down", "--to", "0")
	command("migrate", "up")
}

// onBus switches to a bus, if it is not the one that there is, and asks which it is.
func (j *journey) onBus(bus string, change bool) {
	j.t.Helper()
	if change {
		setBus(j.t, j.url, bus)
		pgtest.Eventually(j.t, "the bus "+bus, func() bool {
			return metric(j.t, j.server, "topostream_streaming_wal") == 1 == (bus == setting.WAL)
		})
	}
	if code, out, errOut := program(j.t, "bus", "status", "--database-url", j.url); code != exitOK ||
		!strings.Contains(strings.Join(strings.Fields(out), " "), "bus: "+bus) {
		j.t.Errorf("bus status: %d %s%s", code, out, errOut)
	}
}

// onASocket gives a database of a PostgreSQL of its own, by a unix socket.
func onASocket(t *testing.T, encoding string) (owner, superuser *pgtest.DB) {
	t.Helper()
	dir := pgtest.OpenDir(t)
	// PostgreSQL, which is another user, makes its socket there.
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	cluster := pgtest.Cluster(t, "unix_socket_directories="+dir)
	owner, superuser = pgtest.NewOwnedOn(t, cluster.URL("postgres"), "owner", encoding)
	for _, db := range []*pgtest.DB{owner, superuser} {
		u, err := url.Parse(db.URL)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		q.Set("host", dir)
		q.Set("port", u.Port())
		u.Host, u.RawQuery = "", q.Encode()
		db.URL = u.String()
	}
	return owner, superuser
}

func (s surroundings) prepare(t *testing.T, owner, superuser *pgtest.DB) {
	t.Helper()
	u, err := url.Parse(owner.URL)
	if err != nil {
		t.Fatal(err)
	}
	names := strings.NewReplacer("{role}", pgx.Identifier{u.User.Username()}.Sanitize(),
		"{database}", pgx.Identifier{strings.TrimPrefix(u.Path, "/")}.Sanitize())
	for _, statement := range s.before {
		superuser.Exec(t, names.Replace(statement))
	}
}

// A journey is what people do with the product in one database.
type journey struct {
	t      *testing.T
	owner  *pgtest.DB // as people use it
	url    string     // as our programs do
	server string
	stop   func() // ends the server
	admin  *operator
	id     string // of its topology
	client *client
	tail   *tailing
}

// begin makes a topology over REST, follows it by a token, by a ticket and with tail, and works on it.
func (j *journey) begin() {
	j.t.Helper()
	j.admin = newOperator(j.t, j.server, "admin", stream.RoleAdmin)
	j.id = j.admin.create(`{"name":"journey"}`)
	j.client = newClient(j.t, j.server, j.id, "").watch()
	j.client.await("its snapshot", func() bool { return len(j.client.snapshots) > 0 })
	j.tail = startTail(j.t, tailCmd{Topology: []string{j.id}, URL: j.server, Token: testToken(j.t), JSON: true})
	j.tail.out.await(j.t, `"topology_id"`, j.tail.ended)
	res := openTicket(j.t, j.server, j.id, j.admin.ticket())
	_ = res.Body.Close() // that it opens is enough
	if res.StatusCode != http.StatusOK {
		j.t.Errorf("by a ticket: %s", res.Status)
	}
}

// edit changes the topology in the ways that there are: over REST, by SQL, by an emit and a raw NOTIFY.
func (j *journey) edit(name string) {
	j.t.Helper()
	conn := j.owner.Conn(j.t)
	for _, body := range []string{
		`{"op":"add_lan","payload":{"name":"` + name + `","x":0.1234567890123456,"y":-1e-7}}`,
		`{"op":"add_decky","payload":{"name":"d-` + name + `","lan":"` + name + `","x":0.30000000000000004}}`,
		`{"op":"update_lan","payload":{"name":"nobody","patch":{"x":1}}}`, // fails
	} {
		var m enqueued
		j.admin.do("POST", "/topologies/"+j.id+"/mutations", body).into(j.t, http.StatusAccepted, &m)
		state := "applied"
		if strings.Contains(body, "nobody") {
			state = "failed"
		}
		awaitMutation(j.t, conn, m.ID, state)
	}
	var list []json.RawMessage
	j.admin.do("GET", "/topologies/"+j.id+"/mutations?state=applied", "").into(j.t, http.StatusOK, &list)
	if len(list) < 2 {
		j.t.Errorf("the list of mutations has %d", len(list))
	}
	for _, statement := range []string{
		`UPDATE deckies SET state = 'running', x = 0.7999999999999999 WHERE name = 'd-` + name + `'`,
		`SELECT topology_emit('` + j.id + `', 'by.hand', '{"what": "é?", "n": 0.1234567890123456}'::jsonb)`,
		`SELECT pg_notify('topology.` + j.id + `', 'by hand ` + name + `')`,
		`UPDATE topologies SET reason = '` + name + `'`,
	} {
		if pgtest.Scan[string](j.t, conn, `SHOW server_encoding`) == "EUC_JP" {
			statement = strings.ReplaceAll(statement, "é", "e")
		}
		pgtest.Exec(j.t, conn, statement)
	}
	// What is no type in a session that reads backslashes is none in any.
	if _, err := conn.Exec(j.t.Context(), `SELECT topology_emit('`+j.id+`', 'a"b', '{}')`); err == nil {
		j.t.Error(`the type a"b is taken`)
	}
	j.client.awaitSeq(pgtest.Scan[uint64](j.t, conn, `SELECT seq FROM topology_heads WHERE topology_id = '`+j.id+`'`))
}

// check has the checker write and judge for a while.
func (j *journey) check() {
	j.t.Helper()
	duration := time.Second
	if isAlone() {
		duration = 10 * time.Second
	}
	report, err := check.Run(j.t.Context(), check.Config{
		URLs: func() []string { return []string{j.server} }, DatabaseURL: j.url,
		Token:      token.Issuer(testSecret).Token,
		Topologies: 3, Writers: 2, Clients: 4, Duration: duration, Rate: 50, Seed: 1,
	})
	if err != nil {
		j.t.Error(err)
		return
	}
	if err := report.Judged(); err != nil || !report.Clean() {
		var text strings.Builder
		report.Write(&text)
		j.t.Errorf("%v\n%s", err, text.String())
	}
}

// end compares what came with the journal, and the tables with what the journal makes of nothing.
func (j *journey) end() {
	j.t.Helper()
	conn := j.owner.Conn(j.t)
	head := pgtest.Scan[uint64](j.t, conn, `SELECT seq FROM topology_heads WHERE topology_id = '`+j.id+`'`)
	j.client.awaitSeq(head)
	j.tail.out.await(j.t, fmt.Sprintf(`"seq":%d,`, head), j.tail.ended)
	j.tail.cancel()
	<-j.tail.ended
	events := journal(j.t, j.server, j.id, 0)
	if n := uint64(len(events)); n != head {
		j.t.Fatalf("the journal has %d events, its head is %d", n, head)
	}
	j.client.mu.Lock()
	came, first := slices.Clone(j.client.data), int(j.client.snapshots[0])+1
	j.client.mu.Unlock()
	tailed := strings.Split(strings.TrimSpace(j.tail.out.String()), "\n")
	for who, lines := range map[string][]string{"the client": came, "tail": tailed} {
		next := first
		for i, line := range lines {
			var e struct {
				Seq       int
				Journaled bool
			}
			err := json.Unmarshal([]byte(line), &e)
			if i == 0 && who == "tail" { // the snapshot: it attached later
				next = e.Seq + 1
				continue
			}
			if err != nil || !e.Journaled { // a raw NOTIFY, which has no seq
				continue
			}
			if e.Seq != next || !reflect.DeepEqual(parsed(j.t, line), parsed(j.t, events[e.Seq-1])) {
				j.t.Errorf("%s got %s, want %d as in the journal: %s", who, line, next, events[e.Seq-1])
			}
			next = e.Seq + 1
		}
		if uint64(next) != head+1 {
			j.t.Errorf("%s ends before %d, the head is %d", who, next, head)
		}
	}
	replayed, said := graphRows{}, told{mutations: map[string]string{}}
	for _, event := range events {
		replayed.apply(j.t, event)
		said.apply(j.t, event)
	}
	var document struct {
		changedRows

		Topology struct {
			Status, Reason string
			Version        int
		}
	}
	getJSON(j.t, j.server+"/api/v1/topologies/"+j.id, &document)
	tables := graphRows{}
	tables.change(document.changedRows)
	is := told{document.Topology.Status, document.Topology.Reason, document.Topology.Version, map[string]string{}}
	var mutations []struct{ ID, State string }
	getJSON(j.t, j.server+"/api/v1/topologies/"+j.id+"/mutations?limit=200", &mutations)
	for _, m := range mutations {
		is.mutations[m.ID] = m.State
	}
	if len(is.mutations) < 3 || !reflect.DeepEqual(said, is) {
		j.t.Errorf("the journal makes\n%v, the tables have\n%v", said, is)
	}
	if len(tables) < 2 || !reflect.DeepEqual(replayed, tables) {
		j.t.Errorf("the journal makes\n%v, the tables have\n%v", replayed, tables)
	}
	for key, row := range tables {
		want := map[string]any{"lans": 0.1234567890123456, "deckies": 0.7999999999999999}[strings.Fields(key)[0]]
		if row["x"] != want {
			j.t.Errorf("%s is at %v, want %v", key, row["x"], want)
		}
	}
}

// told is what a topology's row and its mutations have, as its events tell it.
type told struct {
	status, reason string
	version        int
	mutations      map[string]string // the state of each
}

func (s *told) apply(t *testing.T, event string) {
	t.Helper()
	var e struct {
		Type    string
		Payload struct {
			State, Reason string
			Version       int
			Mutation      string `json:"mutation_id"`
		}
	}
	if err := json.Unmarshal([]byte(event), &e); err != nil {
		t.Errorf("%s: %v", event, err)
	}
	state, isMutation := strings.CutPrefix(e.Type, "mutation.")
	switch {
	case e.Type == "status":
		s.status, s.reason = e.Payload.State, e.Payload.Reason
	case isMutation:
		s.mutations[e.Payload.Mutation] = strings.Replace(state, "enqueued", "pending", 1)
		if state == "applied" || state == "failed" {
			s.version = e.Payload.Version
		}
	}
}

// graphRows are the rows of a topology's graph, by table and id.
type graphRows map[string]map[string]any

// changedRows are what a graph's event, an edit's result and a document have in common.
type changedRows struct {
	LANs, Deckies, Edges []map[string]any
	Removed              []struct{ Table, ID string }
}

func (g graphRows) apply(t *testing.T, event string) {
	t.Helper()
	var e struct {
		Type    string
		Payload struct {
			changedRows

			Result changedRows
		}
	}
	if err := json.Unmarshal([]byte(event), &e); err != nil {
		t.Errorf("%s: %v", event, err)
	}
	switch e.Type {
	case "graph":
		g.change(e.Payload.changedRows)
	case "mutation.applied":
		g.change(e.Payload.Result)
	}
}

func (g graphRows) change(r changedRows) {
	for _, row := range r.Removed {
		delete(g, row.Table+" "+row.ID)
	}
	for table, rows := range map[string][]map[string]any{"lans": r.LANs, "deckies": r.Deckies, "edges": r.Edges} {
		for _, row := range rows {
			g[fmt.Sprint(table, " ", cmp.Or(row["uuid"], row["id"]))] = row
		}
	}
}

func parsed(t *testing.T, text string) (v any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Errorf("%s: %v", text, err)
	}
	return v
}
