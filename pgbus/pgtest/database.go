package pgtest

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/sql"
)

// New gives the test a database.
func New(t testing.TB) *DB {
	t.Helper()
	failFast(t)
	return runServer(t).copyOfTemplate(t)
}

// NewOn gives the test a database on a server of its choice.
func NewOn(t testing.TB, url string) *DB {
	t.Helper()
	return server{url: url}.copyOfTemplate(t)
}

// copyOfTemplate makes a database.
//
// It is a copy of a template, which the first test makes and migrates. github.com/peterldowns/pgtestdb does the same
// with three connections more for each database, and a run makes hundreds of them.
func (s server) copyOfTemplate(t testing.TB) *DB {
	t.Helper()
	name, err := templateName()
	if err != nil {
		t.Fatal(err)
	}
	s.administer(t, func(ctx context.Context, conn *pgx.Conn) error { return makeTemplate(ctx, conn, name) })
	db := s.create(t, ` TEMPLATE `+name)
	// A copy of the template is another database; it shall not begin with a raised epoch.
	db.script(t, `UPDATE topology_settings SET system_identifier = NULL, history = gen_random_uuid();
		SELECT topology_identify()`)
	return db
}

// NewEncoded gives the test a database in another encoding than UTF8, migrated.
func NewEncoded(t testing.TB, encoding string) *DB {
	t.Helper()
	options := ` TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' ENCODING ` + pgx.Identifier{encoding}.Sanitize()
	db := runServer(t).create(t, options)
	if err := sql.Up(context.Background(), db.Conn(t)); err != nil {
		t.Fatal(err)
	}
	return db
}

// NewEmpty gives the test a database without the schema.
func NewEmpty(t testing.TB) *DB {
	t.Helper()
	return runServer(t).create(t, "")
}

// NewOwned gives the test a database without the schema that belongs to a role of its own, which is no superuser and
// may replicate, as most installations have it. The first URL is the role's, the second a superuser's.
func NewOwned(t testing.TB, role, encoding string) (owner, superuser *DB) {
	t.Helper()
	return runServer(t).owned(t, role, encoding)
}

// NewOwnedOn is NewOwned on a server of the test's choice.
func NewOwnedOn(t testing.TB, url, role, encoding string) (owner, superuser *DB) {
	t.Helper()
	return server{url: url}.owned(t, role, encoding)
}

func (s server) owned(t testing.TB, role, encoding string) (owner, superuser *DB) {
	t.Helper()
	const password = "the owner's"
	role = fmt.Sprintf("%s_%08x", role, rand.Uint32())
	quoted := pgx.Identifier{role}.Sanitize()
	s.administer(t, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx,
			`CREATE ROLE `+quoted+` LOGIN REPLICATION PASSWORD '`+strings.ReplaceAll(password, "'", "''")+`'`)
		return err
	})
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		s.administer(t, func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, `DROP ROLE `+quoted)
			return err
		})
	})
	options := ` OWNER ` + quoted + ` TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' ENCODING ` +
		pgx.Identifier{encoding}.Sanitize()
	superuser = s.create(t, options)
	u, err := url.Parse(superuser.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, password)
	return &DB{URL: u.String()}, superuser
}

// create makes a database and drops it after the test, unless that has failed.
func (s server) create(t testing.TB, options string) *DB {
	t.Helper()
	u, err := url.Parse(s.url)
	if err != nil {
		t.Fatalf("TEST_DATABASE_URL: %v", err)
	}
	name := fmt.Sprintf("test_%d_%08x", time.Now().UnixNano(), rand.Uint32())
	u.Path = "/" + name
	s.administer(t, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `CREATE DATABASE `+name+options)
		return err
	})
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		s.awaitSlots(t, name)
		s.administer(t, func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, `DROP DATABASE `+name+` WITH (FORCE)`)
			return err
		})
	})
	if mode := os.Getenv("TEST_EXEC_MODE"); mode != "" {
		if mode == "simple_protocol" && strings.Contains(options, "SQL_ASCII") {
			mode = "exec" // the other is refused there
		}
		q := u.Query()
		q.Set(execMode, mode)
		u.RawQuery = q.Encode()
	}
	return &DB{URL: u.String()}
}

// execMode is pgx's keyword for how queries go to PostgreSQL.
const execMode = "default_query_exec_mode"

// awaitSlots waits until the replication connections that have been closed have taken their slots with them: a
// database with one cannot be dropped.
func (s server) awaitSlots(t testing.TB, name string) {
	t.Helper()
	Eventually(t, "the replication slots to be gone", func() (gone bool) {
		s.administer(t, func(ctx context.Context, conn *pgx.Conn) error {
			const query = `SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE database = $1)`
			return conn.QueryRow(ctx, query, name).Scan(&gone)
		})
		return gone
	})
}

// A server is where databases are made.
type server struct {
	url   string
	admin *admin // nil at a private cluster, which ends or is killed
}

// An admin is a connection that makes and drops the databases of this process on the run's cluster. To open one for
// each statement would cost more than most statements.
type admin struct {
	mu   sync.Mutex
	conn *pgx.Conn
}

var runAdmin admin //nolint:gochecknoglobals // one for the process

func runServer(t testing.TB) server {
	t.Helper()
	return server{serverURL(t), &runAdmin}
}

// administer has f use a connection of the server's own database.
func (s server) administer(t testing.TB, f func(context.Context, *pgx.Conn) error) {
	t.Helper()
	ctx := context.Background()
	if s.admin == nil {
		conn, err := pgx.Connect(ctx, s.url)
		if err == nil {
			err = errors.Join(f(ctx, conn), conn.Close(ctx))
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	s.admin.mu.Lock()
	defer s.admin.mu.Unlock()
	if s.admin.conn == nil || s.admin.conn.IsClosed() {
		conn, err := pgx.Connect(ctx, s.url)
		if err != nil {
			t.Fatal(err)
		}
		s.admin.conn = conn
	}
	if err := f(ctx, s.admin.conn); err != nil {
		t.Fatal(err)
	}
}

// templateName is that of these migrations.
func templateName() (string, error) {
	h := fnv.New128a()
	err := fs.WalkDir(sql.Files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := sql.Files.ReadFile(path)
		_, _ = h.Write(b) // never fails (hash.Hash)
		return err
	})
	return "template_" + hex.EncodeToString(h.Sum(nil)), err
}

// makeTemplate makes the template unless it is there. Whoever else wants it waits.
func makeTemplate(ctx context.Context, conn *pgx.Conn, name string) (err error) {
	there := func() (yes bool, err error) {
		const query = `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)`
		err = conn.QueryRow(ctx, query, name).Scan(&yes)
		return yes, err
	}
	if yes, err := there(); yes || err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock(hashtext($1))`, name); err != nil {
		return err
	}
	defer func() {
		_, unlock := conn.Exec(ctx, `SELECT pg_advisory_unlock(hashtext($1))`, name)
		err = errors.Join(err, unlock)
	}()
	if yes, err := there(); yes || err != nil {
		return err
	}
	for _, statement := range []string{`DROP DATABASE IF EXISTS `, `CREATE DATABASE `} {
		if _, err := conn.Exec(ctx, statement+name); err != nil {
			return err
		}
	}
	cfg := conn.Config()
	cfg.Database = name
	to, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	if err := errors.Join(sql.Up(ctx, to), to.Close(ctx)); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `ALTER DATABASE `+name+` IS_TEMPLATE true`)
	return err
}
