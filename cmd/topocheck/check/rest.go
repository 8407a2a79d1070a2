package check

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"
)

// request makes one call of the API. status 0: nobody knows what became of it.
func (w *writer) request(ctx context.Context, method string, t *topology, path string, body []byte,
	key string) (status int, answer []byte) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	token, err := w.run.cfg.Token(fmt.Sprint("topocheck-writer-", w.n))
	if err != nil {
		return 0, nil
	}
	req, err := http.NewRequestWithContext(ctx, method, w.run.server(w.rng)+"/api/v1/topologies/"+t.id+path,
		bytes.NewReader(body))
	if err != nil {
		return 0, nil
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	w.sent = w.run.since()
	res, err := w.client.Do(req)
	if err != nil {
		return 0, nil
	}
	defer func() { _ = res.Body.Close() }() // it is read
	answer, err = io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return 0, nil
	}
	return res.StatusCode, answer
}

// postMutation enqueues a mutation through the API, again and again with the same key until the answer is known: then
// it is there exactly once.
func (w *writer) postMutation(ctx context.Context) {
	t := w.pick()
	if int(t.waiting.Load()) > crowded {
		w.claim(ctx, t)
		return
	}
	m, tagged := w.newTag(t)
	op, payload := w.op(m)
	body, err := json.Marshal(map[string]any{"op": op, "payload": json.RawMessage(payload)})
	if err != nil {
		panic(err) // our own text
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	tried := false
	for end.Err() == nil {
		status, answer := w.request(end, http.MethodPost, t, "/mutations", body,
			fmt.Sprintf("topocheck-%d-%s", w.run.cfg.Seed, m))
		switch {
		case status == http.StatusAccepted:
			w.decide(tagged, committed)
			return
		case status == http.StatusConflict && !tried:
			w.decide(tagged, rolledBack)
			return
		case status >= 400 && status < 500 && status != http.StatusTooManyRequests:
			w.decide(tagged, unknown)
			w.refused("POST mutations", status, answer)
			return
		}
		tried = true
		w.run.stats.retries.Add(1)
		pause(end, 100*time.Millisecond+time.Duration(w.rng.Int64N(int64(300*time.Millisecond))))
	}
	w.decide(tagged, unknown)
}

// patchStatus changes a status through the API. Whether one that was cut off is done, only the journal knows.
func (w *writer) patchStatus(ctx context.Context) {
	t := w.pick()
	m, tagged := w.newTag(t)
	body := fmt.Appendf(nil, `{"status":%q,"reason":"%s%d"}`, []string{"active", "degraded"}[w.rng.IntN(2)],
		reasonPrefix, uint64(m))
	switch status, answer := w.request(context.WithoutCancel(ctx), http.MethodPatch, t, "", body, ""); {
	case status == http.StatusOK:
		w.decide(tagged, committed)
	case status == http.StatusConflict:
		w.decide(tagged, rolledBack)
	case status >= 400 && status < 500:
		w.decide(tagged, unknown)
		w.refused("PATCH", status, answer)
	default:
		w.decide(tagged, unknown)
	}
}

func (w *writer) refused(what string, status int, answer []byte) {
	w.run.violations.add(Violation{
		Kind: Refused, Client: fmt.Sprint("writer ", w.n), At: w.run.since(), Fault: w.run.faults.now(),
		Detail: fmt.Sprintf("%s: %d %s", what, status, short(answer)),
	})
}

// server chooses one of the servers.
func (r *run) server(rng *rand.Rand) string {
	urls := r.cfg.URLs()
	if len(urls) == 0 {
		return "http://127.0.0.1:0" // nobody: as one that refuses
	}
	return urls[rng.IntN(len(urls))]
}
