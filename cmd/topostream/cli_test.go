package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/golang-jwt/jwt/v5"

	"topostream/pgbus/pgtest"
	"topostream/sql"
)

// commandLine is the interface's table: each command's arguments and flags, with a value that is good.
var commandLine = map[string]string{
	"dev": "--addr=127.0.0.1:8080 --data-dir=x",
	"serve": "--addr=:1 --database-url=x --listen-database-url=x --replica-database-url=x --bus=notify --mutator " +
		"--migrate --jwt-secret=x --jwt-secret-file=x " +
		"--jwt-public-key=x --jwks-url=x --jwt-issuer=x --jwt-audience=x --auth-cookie=x --allow-origin=x --rate-limit=1 " +
		"--keepalive=1s --write-timeout=1s --drain=1s --max-streams=1 " +
		"--max-streams-per-user=1 --feed-memory=1 --retention=24h --retention-count=1 --mutation-retention=720h " +
		"--metrics-addr=:1 --tls-cert=x --tls-key=x --log-format=json --log-level=debug --engine=auto --pprof " +
		"--max-in-flight=1 --pool-size=10 --hsts=0 --access-log=false --jwt-subject-claim=x " +
		"--jwt-role-claim=x --jwt-default-role=viewer",
	"health": "--url=x --addr=:1 --tls-cert=x --exclude=database", "version": "",
	"mutator": "--database-url=x --concurrency=1 --max-attempts=3 --lease=1s --apply-exec=x --apply-url=x " +
		"--apply-timeout=1s --log-format=json --log-level=debug",
	"migrate up":        "--database-url=x",
	"migrate down":      "--database-url=x --to=0",
	"migrate status":    "--database-url=x",
	"migrate new-epoch": "--database-url=x",
	"bus notify":        "--database-url=x",
	"bus wal":           "--database-url=x",
	"bus status":        "--database-url=x",
	"token":             "--sub=x --role=admin --ttl=1h --topology=a --topology=b",
	"tail x":            "--url=x --token=x --token-file=x --json --since=1 --until=a --timeout=1s",
}

// program runs a command line in this process.
func program(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	code = run(ctx, args, &o, &e)
	return code, o.String(), e.String()
}

func TestEveryFlagOfTheInterfaceIsAcceptedAndExplained(t *testing.T) {
	t.Parallel()
	for command, flags := range commandLine {
		var c cli
		parser, err := newParser(&c)
		if err != nil {
			t.Fatal(err)
		}
		words := strings.Fields(command)
		parsed, err := parser.Parse(append(slices.Clone(words), strings.Fields(flags)...))
		if err != nil {
			t.Errorf("%s: %v", command, err)
			continue
		}
		code, help, errOut := program(t, append(words, "--help")...)
		if code != exitOK || errOut != "" || !strings.HasPrefix(help, "Usage: topostream "+words[0]) {
			t.Errorf("%s --help: %d %s%s", command, code, help, errOut)
		}
		for flag := range strings.FieldsSeq(flags) {
			name, _, _ := strings.Cut(strings.TrimPrefix(flag, "--"), "=")
			env := "$TOPOSTREAM_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
			// Help is wrapped: compare words.
			text := strings.ReplaceAll(strings.Join(strings.Fields(help), " "), "--[no-]", "--")
			if !strings.Contains(text, "--"+name) ||
				!strings.Contains(text, env) {
				t.Errorf("%s --help does not tell of --%s and %s:\n%s", command, name, env, help)
			}
			if name == "database-url" && !strings.Contains(help, "$DATABASE_URL") {
				t.Errorf("%s --help does not tell of $DATABASE_URL", command)
			}
		}
		everyFlagHasASentence(t, command, parsed)
	}
}

func everyFlagHasASentence(t *testing.T, command string, parsed *kong.Context) {
	t.Helper()
	for _, flag := range parsed.Flags() {
		if flag.Help == "" {
			t.Errorf("%s --%s has no help", command, flag.Name)
		}
	}
}

func TestDefaultsAreTheInterfaces(t *testing.T) {
	t.Parallel()
	for command, want := range map[string][]string{
		"dev": {`--addr="127.0.0.1:8080"`},
		"serve": {
			`--addr="127.0.0.1:8080"`, "--max-streams-per-user=16", "--rate-limit=60000", "--keepalive=15s", "--retention=24h",
			"--[no-]access-log",
			"--mutation-retention=720h", "--max-in-flight=10000", "--pool-size=0",
		},
		"mutator": {"--max-attempts=3"},
	} {
		_, help, _ := program(t, command, "--help")
		for _, w := range want {
			if !strings.Contains(help, w) {
				t.Errorf("%s --help does not say %s:\n%s", command, w, help)
			}
		}
	}
}

func TestWithoutArgumentsTheProgramSaysWhatItCan(t *testing.T) {
	t.Parallel()
	code, out, errOut := program(t)
	if code != exitOK || errOut != "" || !strings.Contains(out, "topostream dev") {
		t.Errorf("%d %s%s", code, out, errOut)
	}
	for _, command := range []string{"dev", "serve", "mutator", "migrate up", "bus", "token", "tail"} {
		if !strings.Contains(out, "\n  "+command+" ") {
			t.Errorf("no %s in:\n%s", command, out)
		}
	}
}

func TestAWrongCommandLineIsTwoLinesAndExitCode2(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"frobnicate":                            "unexpected argument frobnicate",
		"serve --database-url=x --frob":         "unknown flag --frob\nSee `topostream serve --help`.",
		"migrate":                               `expected one of "up", "down", "status", "new-epoch"`,
		"migrate up":                            "missing flags: --database-url=URL",
		"token --role boss":                     `--role must be one of "viewer","admin" but got "boss"`,
		"token --ttl soon":                      "--ttl: expected duration but got \"soon\"",
		"tail":                                  `expected "<topology> ..."`,
		"serve --database-url=x --log-format=x": `--log-format must be one of "text","json" but got "x"`,
	} {
		cmd := strings.Fields(args)
		code, out, errOut := program(t, cmd...)
		if code != exitUsage || out != "" || !strings.HasPrefix(errOut, "topostream: ") || !strings.Contains(errOut, want) ||
			strings.Count(errOut, "\n") != 2 {
			t.Errorf("%s: %d %s%s", args, code, out, errOut)
		}
	}
}

// TestEnvironmentVariablesStandForFlags runs the test binary's own program in processes, because the environment is a
// process's.
func TestEnvironmentVariablesStandForFlags(t *testing.T) {
	t.Parallel()
	long(t)
	binary := buildProgram(t)
	db := pgtest.New(t)
	for name, c := range map[string]struct {
		env  []string
		args string
		want string
	}{
		"TOPOSTREAM_DATABASE_URL": {[]string{"TOPOSTREAM_DATABASE_URL=" + db.URL}, "migrate status", "schema at version "},
		"DATABASE_URL":            {[]string{"DATABASE_URL=" + db.URL}, "migrate status", "schema at version "},
		"both, our own wins": {
			[]string{"TOPOSTREAM_DATABASE_URL=" + db.URL, "DATABASE_URL=postgres://127.0.0.1:1/x"}, "migrate status",
			"schema at version ",
		},
		"a flag wins": {
			[]string{"DATABASE_URL=postgres://127.0.0.1:1/x"}, "migrate status --database-url " + db.URL, "schema at version ",
		},
		"TOPOSTREAM_JWT_SECRET": {[]string{"TOPOSTREAM_JWT_SECRET=" + testSecret}, "token", "eyJ"},
	} {
		cmd := exec.CommandContext(t.Context(), binary, strings.Fields(c.args)...)
		cmd.Env = cleanEnv(c.env...)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), c.want) {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

func TestATokenStandsAloneOnStdout(t *testing.T) {
	t.Parallel()
	secretFile := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secretFile, []byte(testSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const one, two = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000B"
	code, out, errOut := program(t, "token", "--jwt-secret-file", secretFile, "--sub", "ann", "--role", "admin", "--ttl",
		"90m", "--topology", one, "--topology", two, "--jwt-issuer", "us", "--jwt-audience", "them")
	if code != exitOK || errOut != "" || strings.Count(out, "\n") != 1 {
		t.Fatalf("%d %q %q", code, out, errOut)
	}
	claims := jwt.MapClaims{}
	if _, err := jwt.ParseWithClaims(strings.TrimSpace(out), claims,
		func(*jwt.Token) (any, error) { return []byte(testSecret), nil }); err != nil {
		t.Fatal(err)
	}
	topologies, _ := claims["topologies"].([]any)
	if claims["sub"] != "ann" || claims["role"] != "admin" || claims["iss"] != "us" || len(topologies) != 2 ||
		topologies[1] != strings.ToLower(two) {
		t.Errorf("claims: %v", claims)
	}
	exp, errE := claims.GetExpirationTime()
	iat, errI := claims.GetIssuedAt()
	if errE != nil || errI != nil || exp.Sub(iat.Time) != 90*time.Minute {
		t.Errorf("from %v to %v", iat, exp)
	}
}

func TestATokenThatCannotBeMadeIsExplained(t *testing.T) {
	t.Parallel()
	const missing = "/nonexistent/secret"
	for want, args := range map[string][]string{
		"no secret: set TOPOSTREAM_JWT_SECRET or --jwt-secret-file":              {},
		"the JWT secret has 5 bytes: it needs 32 or more":                        {"--jwt-secret", "short"},
		"--jwt-secret-file: open /nonexistent/secret: no such file or directory": {"--jwt-secret-file", missing},
		"--jwt-secret and --jwt-secret-file are both given: give one": {
			"--jwt-secret", testSecret, "--jwt-secret-file", missing,
		},
		"--ttl: -1h0m0s is not positive": {"--jwt-secret", testSecret, "--ttl=-1h"},
		`--topology: "demo" is no topology id: give the 36-character form of a UU`: {
			"--jwt-secret", testSecret, "--topology", "demo",
		},
	} {
		code, out, errOut := program(t, append([]string{"token"}, args...)...)
		if code != exitError || out != "" || !strings.HasPrefix(errOut, "topostream: "+want) ||
			strings.Contains(errOut, testSecret) {
			t.Errorf("%v: %d %q %q", args, code, out, errOut)
		}
	}
}

// serveUntilError runs serve where it must not come up.
func serveUntilError(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errOut := program(t, append([]string{"serve", "--addr", "127.0.0.1:0"}, args...)...)
	if code != exitError || out != "" {
		t.Errorf("%v: %d %s%s", args, code, out, errOut)
	}
	return errOut
}

func TestAServerThatCannotStartSaysTheFixInOneLine(t *testing.T) {
	t.Parallel()
	db, empty := pgtest.New(t), pgtest.NewEmpty(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	url := func(change func(string) string) []string {
		return []string{"--jwt-secret", testSecret, "--database-url", change(db.URL)}
	}
	unreadable := filepath.Join(t.TempDir(), "secret") // a directory: root reads every file
	if err := os.Mkdir(unreadable, 0o700); err != nil {
		t.Fatal(err)
	}
	same := func(u string) string { return u }
	for want, args := range map[string][]string{
		"cannot reach PostgreSQL: is it running, and is --database-url right?": url(
			func(string) string { return "postgres://x:hunter2@127.0.0.1:1/z" },
		),
		"PostgreSQL refused the user or the password in --database-url": url(
			func(u string) string { return strings.Replace(u, "//postgres:", "//postgres:hunter2", 1) },
		),
		`database "nowhere" does not exist: create it`: url(
			func(u string) string { return u[:strings.LastIndexByte(u, '/')] + "/nowhere" },
		),
		`refused the connection (unrecognized configuration parameter "nonsense"): correct --database-url`: url(
			func(u string) string { return pgtest.With(t, u, "nonsense", "hunter2") },
		),
		"the connection string has sslcrl: leave it out": url(
			func(u string) string { return pgtest.With(t, u, "sslcrl", "hunter2") },
		),
		"run `topostream migrate up`": {
			"--jwt-secret", testSecret, "--database-url", empty.URL,
		},
		"is taken by another program: stop it or choose another --addr": append(url(same), "--addr", busy.Addr().String()),
		"give host:port, for example 127.0.0.1:8080":                    append(url(same), "--addr", "8080"),
		"no secret: set TOPOSTREAM_JWT_SECRET or --jwt-secret-file":     {"--database-url", db.URL},
		"it needs 32 or more": {
			"--database-url", db.URL, "--jwt-secret", "hunter2",
		},
		"--jwt-secret-file: read " + unreadable: {
			"--database-url", db.URL, "--jwt-secret-file", unreadable,
		},
	} {
		errOut := serveUntilError(t, args...)
		if !strings.HasPrefix(errOut, "topostream: ") || !strings.Contains(errOut, want) || strings.Count(errOut, "\n") != 1 {
			t.Errorf("%v: %s", args, errOut)
		}
		if strings.Contains(errOut, testSecret) || strings.Contains(errOut, "hunter2") {
			t.Errorf("%v: a secret shows: %s", args, errOut)
		}
	}
}

func TestNoPartOfAPasswordShowsWhateverIsWrongWithTheConnectionString(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"postgres://u:hun/ter2@127.0.0.1:1/db", "postgres://u:hun@x/ter2@127.0.0.1/db",
		"postgres://u:hun%ter2@127.0.0.1:1/db", "postgres://u:hun ter2@127.0.0.1:1/db",
		"postgres://u:hun@ter2@127.0.0.1:1/db",
		"postgres://u:hun#ter2@127.0.0.1:1/db", "postgres://u:hun?ter2@127.0.0.1:1/db",
		"postgres://u:hun:ter2@127.0.0.1:1/db", "postgres://u:hun[ter2@127.0.0.1:1/db",
		"host=127.0.0.1 port=1 password=hunter2 user", "host=127.0.0.1 port=1 password='hunter2",
		"host=127.0.0.1 port=x password=hunter2", "u:hunter2@127.0.0.1:1/db",
		"postgres://u:hunter2@127.0.0.1:99999/db", "postgres://u:hunter2@127.0.0.1:1/db?sslmode=x",
		"postgres://u@127.0.0.1:1/db?password=hunter2&connect_timeout=x",
		"postgres//u:hunter2@127.0.0.1:1/db", "mysql://u:hunter2@127.0.0.1:1/db",
	} {
		for _, args := range [][]string{{"migrate", "up"}, {"serve", "--addr=127.0.0.1:0", "--jwt-secret", testSecret}} {
			code, out, errOut := program(t, append(args, "--database-url", url)...)
			if code != exitError || out != "" || strings.Count(errOut, "\n") != 1 || strings.Contains(errOut, "hun") ||
				strings.Contains(errOut, "ter2") {
				t.Errorf("%v with %s: %d %s%s", args, url, code, out, errOut)
			}
		}
	}
}

func TestACommandLineThatIsWrongShowsNoSecretOfIt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"serve", "postgres://u:hunter2@127.0.0.1/db"}, exitUsage},
		{[]string{"serve", "host=127.0.0.1 password=hunter2"}, exitUsage},
		{[]string{"serve", "--keepalive=postgres://u:hunter2@127.0.0.1/db"}, exitUsage},
		{[]string{"tail", tailID, "http://127.0.0.1/?token=hunter2"}, exitError},
	} {
		args := c.args
		code, out, errOut := program(t, args...)
		if code != c.code || out != "" || !strings.Contains(errOut, "xxxxx") || strings.Contains(errOut, "hunter2") {
			t.Errorf("%v: %d %s%s", args, code, out, errOut)
		}
	}
}

func TestTheSchemaGoesUpAndDownAndSaysWhereItIs(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	latest := sql.Latest()
	at := func(version int32) string {
		return fmt.Sprintf("schema at version %d; this program knows %d\n", version, latest)
	}
	for _, step := range []struct {
		command string
		code    int
		want    string
	}{
		{"status", exitOK, at(0) + "the database has no topostream schema: run `topostream migrate up`\n"},
		{"new-epoch", exitError, "topostream: the database has no topostream schema: run `topostream migrate up`\n"},
		{"down", exitError, "topostream: the database has no topostream schema: there is nothing to take back\n"},
		{"up", exitOK, at(latest)},
		{"up", exitOK, at(latest)},
		{"status", exitOK, at(latest)},
		{"new-epoch", exitOK, "epoch N\n"},
		{"new-epoch", exitOK, "epoch N\n"},
		{
			fmt.Sprintf("down --to=%d", latest), exitError,
			fmt.Sprintf("topostream: --to: %[1]d is not below the schema's version, %[1]d\n", latest),
		},
		{"down --to=-1", exitError, fmt.Sprintf("topostream: --to: -1 is not below the schema's version, %d\n", latest)},
		{"down", exitOK, at(latest - 1)},
		{"up", exitOK, at(latest)},
		{"down --to=0", exitOK, at(0)},
	} {
		args := append([]string{"migrate"}, strings.Fields(step.command)...)
		code, out, errOut := program(t, append(args, "--database-url", db.URL)...)
		out = regexp.MustCompile(`^epoch [1-9][0-9]*\n$`).ReplaceAllString(out, "epoch N\n")
		if code != step.code || out+errOut != step.want {
			t.Errorf("migrate %s: %d %s%s", step.command, code, out, errOut)
		}
	}
	var left int
	if err := db.Conn(t).QueryRow(t.Context(),
		`SELECT count(*) FROM pg_class WHERE relname LIKE 'topolog%' AND relname NOT LIKE 'topology_schema_version%'`).Scan(
		&left,
	); err != nil ||
		left != 0 {
		t.Errorf("%d things left, %v", left, err)
	}
}

func TestAServerAcceptsANewerSchemaOnlyIfAllThatItDoesNotKnowIsAdditive(t *testing.T) {
	t.Parallel()
	const insert = `INSERT INTO topology_migrations (version, name, additive) VALUES ($1, 'of the future', $2)`
	db := pgtest.New(t)
	latest := sql.Latest()
	serve := func(db *pgtest.DB) string {
		return serveUntilError(t, "--jwt-secret", testSecret, "--database-url", db.URL)
	}

	db.Exec(t, insert, latest+1, true)
	var log lockedBuffer
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := serveCmd{
		database: database{
			db.URL,
		},
		Addr:              "127.0.0.1:0",
		JWTSecret:         testSecret,
		Keepalive:         time.Second,
		WriteTimeout:      time.Second,
		FeedMemory:        1 << 20,
		MutationRetention: defaultMutationRetention,
		MaxInFlight:       defaultMaxInFlight,
		logging:           logging{LogFormat: "text", LogLevel: "info"},
		ready:             func(string) { cancel() },
	}
	if err := cmd.Run(ctx, output{&log, &log}); err != nil {
		t.Errorf("additive: %v", err)
	}
	warning := fmt.Sprintf(
		`level=WARN msg="the database's schema is at %d, this program knows %d; the migrations between are additive"`,
		latest+1, latest)
	if !strings.Contains(log.String(), warning) {
		t.Errorf("no warning in the log: %s", log.String())
	}
	if _, out, _ := program(t, "migrate", "status", "--database-url", db.URL); !strings.Contains(out,
		"the migrations between are additive") {
		t.Errorf("status: %s", out)
	}
	if code, _, errOut := program(t, "migrate", "down", "--database-url", db.URL); code != exitError ||
		!strings.Contains(errOut, fmt.Sprintf("only the program that knows version %d", latest+1)) {
		t.Errorf("down: %d %s", code, errOut)
	}

	db.Exec(t, insert, latest+2, false)
	if errOut := serve(db); !strings.Contains(
		errOut,
		fmt.Sprintf(
			"the database's schema is newer than this program: upgrade topostream (it is at %d, the program knows %d)", latest+2,
			latest),
	) {
		t.Errorf("not additive: %s", errOut)
	}
	db.Exec(t, insert, latest+3, true)
	if errOut := serve(db); !strings.Contains(errOut, "newer than this program") {
		t.Errorf("additive on what is not: %s", errOut)
	}

	older := pgtest.New(t)
	older.Exec(t, `DELETE FROM topology_migrations WHERE version = $1`, latest)
	if errOut := serve(older); !strings.Contains(errOut, "run `topostream migrate up`") {
		t.Errorf("older: %s", errOut)
	}
}

func TestStartingErrorsSayTheFix(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for want, args := range map[string][]string{
		"cannot reach PostgreSQL": {"--database-url", "postgres://x:y@127.0.0.1:1/z", "--jwt-secret", testSecret},
		"openssl rand":            {"--database-url", db.URL, "--jwt-secret", "short"},
		"TOPOSTREAM_JWT_SECRET":   {"--database-url", db.URL},
		"are both given":          {"--database-url", db.URL, "--jwt-secret", testSecret, "--jwks-url", "x"},
		"do not go together": {
			"--database-url", db.URL, "--jwt-secret", testSecret, "--replica-database-url", db.URL, "--bus", "notify",
		},
		"--replica-database-url:": {
			"--database-url", db.URL, "--jwt-secret", testSecret, "--replica-database-url", "postgres://x:y@127.0.0.1:1/z",
		},
		`"x" is no bus`: {"--database-url", db.URL, "--jwt-secret", testSecret, "--bus", "x"},
		`--engine: "x" is no engine: use auto, epoll or portable`: {
			"--database-url", db.URL, "--jwt-secret", testSecret, "--engine", "x",
		},
		"--pool-size: 4 is less than 10": {"--database-url", db.URL, "--jwt-secret", testSecret, "--pool-size", "4"},
		"user or the password": {
			"--database-url", strings.Replace(db.URL, "//postgres:", "//postgres:wrong", 1), "--jwt-secret", testSecret,
		},
		"--tls-cert and --tls-key": {"--database-url", db.URL, "--jwt-secret", testSecret, "--tls-cert", "x"},
		"missing flags":            {"--jwt-secret", testSecret},
	} {
		var out, errOut bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		code := run(ctx, append([]string{"serve", "--addr", "127.0.0.1:0"}, args...), &out, &errOut)
		cancel()
		if code == exitOK || !strings.Contains(errOut.String(), want) {
			t.Errorf("no %q: %d %s", want, code, errOut.String())
		}
	}
}
