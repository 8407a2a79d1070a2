package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
)

func TestChecksComeInTheOrder401Then403Then404(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	server := startServer(t, db.URL)
	const unknown = "00000000-0000-4000-8000-000000000000"
	var limited, errOut bytes.Buffer
	if code := run(t.Context(), []string{"token", "--jwt-secret", testSecret, "--topology", unknown}, &limited,
		&errOut); code != exitOK {
		t.Fatal(errOut.String())
	}
	for _, c := range []struct {
		token, id string
		want      int
	}{
		{"", id, 401}, {"", unknown, 401}, {"", "x", 401},
		{strings.TrimSpace(limited.String()), id, 403}, {strings.TrimSpace(limited.String()), unknown, 404},
		{testToken(t), unknown, 404}, {testToken(t), "x", 404},
	} {
		for _, path := range []string{"/events", "/journal", "/events/"} {
			res, err := http.Get(server + "/api/v1/topologies/" + c.id + path + "?token=" + c.token)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if res.StatusCode != c.want || res.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s%s: %s %s", c.id, path, res.Status, body)
			}
		}
	}
	// Also where the request is malformed: 404 comes first.
	for _, path := range []string{"/journal?after=x", "/mutations?state=x", "/mutations?limit=x"} {
		if status, _, body := get(t, server+"/api/v1/topologies/"+unknown+path); status != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, status, body)
		}
		if status, _, body := get(t, server+"/api/v1/topologies/"+id+path); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	for method, path := range map[string]string{http.MethodPost: "/mutations", http.MethodPatch: ""} {
		for of, want := range map[string]int{unknown: http.StatusNotFound, id: http.StatusBadRequest} {
			req, err := http.NewRequestWithContext(t.Context(), method, server+"/api/v1/topologies/"+of+path,
				strings.NewReader(`{"op":`))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+operatorToken(t))
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if res.StatusCode != want {
				t.Errorf("%s %s: %s, want %d", method, of, res.Status, want)
			}
		}
	}
	http.DefaultClient.CloseIdleConnections()
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
