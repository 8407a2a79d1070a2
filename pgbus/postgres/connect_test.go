package postgres

import (
	"errors"
	"net"
	"net/url"
	"strings"
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

func TestAConnectionStringOfLibpqIsTakenAsAWholeByPoolsAndByConnectionsAlone(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t).URL
	for _, params := range []string{
		"pool_max_conns=14&pool_max_conn_idle_time=30s", "gssencmode=prefer&gsslib=gssapi&gssdelegation=0",
		"keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=3&tcp_user_timeout=9000",
		"sslcompression=0&ssl_min_protocol_version=TLSv1.2", "client_encoding=auto&load_balance_hosts=random&tty=x",
		"statement_timeout=5000&search_path=public",
	} {
		cfg, err := Parse(database + "&" + params)
		if err != nil {
			t.Errorf("%s: %v", params, err)
			continue
		}
		conn, err := Connect(t.Context(), cfg)
		if err != nil {
			t.Errorf("%s: %v", params, err)
			continue
		}
		Close(conn)
		pool, err := NewPool(t.Context(), database+"&"+params)
		must(t, err)
		if err := pool.Ping(t.Context()); err != nil {
			t.Errorf("%s: %v", params, err)
		}
		if most := pool.Config().MaxConns; strings.HasPrefix(params, "pool_") && most != 14 {
			t.Errorf("%s: %d connections", params, most)
		}
		pool.Close()
	}
	for _, c := range []struct{ params, name string }{
		{"fallback_application_name=a", "a"}, {"fallback_application_name=a&application_name=b", "b"},
	} {
		cfg, err := Parse(database + "&" + c.params)
		must(t, err)
		if got := cfg.RuntimeParams["application_name"]; got != c.name {
			t.Errorf("%s: %q", c.params, got)
		}
	}
	for _, refused := range []string{"sslcrl", "sslcrldir", "requirepeer", "hostaddr", "replication"} {
		_, err := Parse(database + "&" + refused + "=hunter2")
		if keyword, ok := errors.AsType[*KeywordError](err); !ok || keyword.Keyword != refused ||
			strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", refused, err)
		}
	}
	for _, refused := range []string{"gssencmode=require", "requiressl=1", "ssl_min_protocol_version=TLSv1.3"} {
		if _, err := NewPool(t.Context(), database+"&"+refused); err == nil {
			t.Errorf("%s is taken", refused)
		}
	}
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
	db := pgtest.NewEncoded(t, "SQL_ASCII")
	_, err := Connect(t.Context(), parse(t, pgtest.With(t, db.URL, "default_query_exec_mode", "simple_protocol")))
	if !errors.Is(err, errSimpleASCII) {
		t.Error(err)
	}
}
