package postgres

import (
	"errors"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

// hosts puts hosts before that of a database's URL.
func hosts(t *testing.T, database string, more ...string) string {
	t.Helper()
	u, err := url.Parse(database)
	must(t, err)
	for _, host := range more {
		u.Host = host + "," + u.Host
	}
	return u.String()
}

func parse(t *testing.T, url string) *pgx.ConnConfig {
	t.Helper()
	cfg, err := pgx.ParseConfig(url)
	must(t, err)
	return cfg
}

func TestAHostThatAnswersNothingCostsItsOwnTimeAlone(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	must(t, err)
	defer silent.Close()
	both := hosts(t, pgtest.New(t).URL, silent.Addr().String())
	cfg := parse(t, pgtest.With(t, both, "sslmode", "disable")) // each host is tried once
	cfg.ConnectTimeout = 2 * time.Second
	conn, err := Connect(t.Context(), cfg)
	must(t, err)
	Close(conn)
	if !conn.IsClosed() {
		t.Error("it is open")
	}
}

func TestEachHostHasItsTimeAndOneWithTLSAndOneWithoutAreTheSame(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		patience time.Duration
		chooses  bool // by what a host may do
	}{
		"postgres://a/x":                              {2 * connectTimeout, false},
		"postgres://a/x?sslmode=prefer":               {2 * connectTimeout, false},
		"postgres://a,b/x":                            {3 * connectTimeout, true},
		"postgres://a:1,a:2,a:3/x":                    {4 * connectTimeout, true},
		"postgres://a,b/x?connect_timeout=1":          {connectTimeout + 2*time.Second, true},
		"postgres://a,a/x":                            {2 * connectTimeout, false},
		"postgres://a/x?target_session_attrs=primary": {2 * connectTimeout, true},
	} {
		given := parse(t, text)
		validated := given.ValidateConnect != nil
		to, patience := Primary(given)
		if patience != want.patience || (to.ValidateConnect != nil) != want.chooses {
			t.Errorf("%s: %s, chooses: %v, want %v", text, patience, to.ValidateConnect != nil, want)
		}
		if (given.ValidateConnect != nil) != validated {
			t.Errorf("%s: the given configuration was changed", text)
		}
	}
}

func TestOfSeveralHostsThePrimaryIsFoundAndAStandbyAloneIsRefused(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes two clusters of its own")
	}
	cluster := pgtest.Cluster(t)
	standby := pgtest.Standby(t, cluster)
	u, err := url.Parse(standby.URL("postgres"))
	must(t, err)
	both := hosts(t, cluster.URL("postgres"), u.Host)
	conn, err := Connect(t.Context(), parse(t, both))
	must(t, err)
	defer Close(conn)
	if pgtest.Scan[bool](t, conn, `SELECT pg_is_in_recovery()`) {
		t.Error("it leads to the standby")
	}
	must(t, Prepare(t.Context(), conn))
	pool, err := NewPool(t.Context(), both)
	must(t, err)
	defer pool.Close()
	must(t, pool.Ping(t.Context()))

	alone, err := Connect(t.Context(), parse(t, standby.URL("postgres")))
	must(t, err)
	defer Close(alone)
	if err := Prepare(t.Context(), alone); !errors.Is(err, ErrStandby) {
		t.Errorf("%v", err)
	}
	refusing, err := NewPool(t.Context(), standby.URL("postgres"))
	must(t, err)
	defer refusing.Close()
	if err := refusing.Ping(t.Context()); !errors.Is(err, ErrStandby) {
		t.Errorf("%v", err)
	}
	replica, err := NewReplicaPool(t.Context(), standby.URL("postgres"))
	must(t, err)
	defer replica.Close()
	must(t, replica.Ping(t.Context()))
}

func TestAConnectionIsNamedUnlessTheConnectionStringNamesIt(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"postgres://a/x": "topostream listen",
		"postgres://a/x?application_name=by%20hand": "by hand",
	} {
		cfg := parse(t, text)
		Name(cfg, "topostream listen")
		if got := cfg.RuntimeParams["application_name"]; got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestADatabaseInAnotherEncodingSpeaksUTF8(t *testing.T) {
	t.Parallel()
	for encoding, want := range map[string]string{"LATIN1": "UTF8", "SQL_ASCII": "SQL_ASCII"} {
		db := pgtest.NewEncoded(t, encoding)
		conn, err := Connect(t.Context(), parse(t, db.URL))
		must(t, err)
		must(t, Prepare(t.Context(), conn))
		if got := conn.PgConn().ParameterStatus("client_encoding"); got != want {
			t.Errorf("%s: %s, want %s", encoding, got, want)
		}
		Close(conn)
	}
}
