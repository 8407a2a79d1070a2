package main

import (
	"bufio"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"topostream/pgbus/pgtest"
)

// As many as an address may have, and all that a client says of them, fit into what nginx takes of a request by
// default: 8 KiB a line (large_client_header_buffers).
func TestBehindNginxAStreamHasAsManyTopologiesAsAnAddressMayHave(t *testing.T) {
	t.Parallel()
	long(t)
	const most = 50
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := live(t, conn, most)
	server := serve(t, db.URL, nil)
	front := startNginx(t, server.url, server.url)
	query := url.Values{"topology": ids, "graph": {"1"}, "token": {testToken(t)}}
	followsAll(t, front, query, "snapshot", ids) // by their ids
	for _, id := range ids {
		query.Add("after", fmt.Sprint(id, ":", emit(t, conn, id)))
	}
	for _, id := range ids {
		emit(t, conn, id)
	}
	followsAll(t, front, query, "test", ids) // by what is known of each
}

// followsAll reads a stream of many until an event of this type has come of each.
func followsAll(t *testing.T, front string, query url.Values, event string, ids []string) {
	t.Helper()
	res := open(t, front+"/api/v1/events?"+query.Encode())
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s: an address of %d bytes", res.Status, len(query.Encode()))
	}
	left := map[string]bool{}
	for _, id := range ids {
		left[id] = true
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	for its := ""; len(left) > 0 && lines.Scan(); {
		if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			its = name
		}
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && its == event {
			for id := range left {
				if strings.Contains(data, id) {
					delete(left, id)
				}
			}
		}
	}
	if len(left) > 0 {
		t.Errorf("%d of %d topologies got no %s: %v", len(left), len(ids), event, lines.Err())
	}
}
