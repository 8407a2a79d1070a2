package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/postgres"
)

// A publisher publishes events, one call at a time.
type publisher interface {
	// publish publishes a topology's events together. It calls sent when they are about to become visible: whatever a
	// client hears of them, it hears later. When it returns, the server has them.
	publish(ctx context.Context, topology string, payloads []string, sent func()) error
	close() error
}

// connect makes a publisher. databaseURL is used where one publishes in a database.
func (p Publish) connect(ctx context.Context, databaseURL string) (publisher, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	if p.HTTP != "" {
		return &httpPublisher{p, &http.Client{Transport: &http.Transport{DisableCompression: true}}}, nil
	}
	cfg, err := postgres.Parse(databaseURL)
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["application_name"] = ownName + " writer"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect a writer: %w", err)
	}
	if p.Notify != "" {
		return &sqlPublisher{conn, `SELECT pg_notify($1, $2)`, p.Notify}, nil
	}
	return &sqlPublisher{conn, p.SQL, "{topology}"}, nil
}

// ownName begins the application_name of our own connections.
const ownName = "topobench"

// A sqlPublisher commits a transaction for each call.
type sqlPublisher struct {
	conn      *pgx.Conn
	statement string
	first     string // template of $1
}

func (s *sqlPublisher) publish(ctx context.Context, topology string, payloads []string, sent func()) error {
	first := strings.ReplaceAll(s.first, "{topology}", topology)
	batch := &pgx.Batch{}
	batch.Queue("BEGIN")
	for _, p := range payloads {
		batch.Queue(s.statement, first, p)
	}
	if err := s.conn.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	sent()
	if _, err := s.conn.Exec(ctx, "COMMIT"); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

func (s *sqlPublisher) close() error { return s.conn.Close(context.Background()) } // nothing is under way

// An httpPublisher sends a POST for each event.
type httpPublisher struct {
	Publish

	client *http.Client
}

func (h *httpPublisher) publish(ctx context.Context, topology string, payloads []string, sent func()) error {
	sent()
	for _, p := range payloads {
		if err := h.post(ctx, topology, p); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
	}
	return nil
}

func (h *httpPublisher) post(ctx context.Context, topology, payload string) error {
	body := payload
	if h.Body != "" {
		body = strings.NewReplacer("{topology}", topology, "{payload}", payload).Replace(h.Body)
	}
	url := strings.ReplaceAll(h.HTTP, "{topology}", topology)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	for _, header := range h.Header {
		name, value, _ := strings.Cut(header, ":")
		req.Header.Set(name, strings.TrimSpace(value))
	}
	res, err := h.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 1<<16))
	switch {
	case err != nil:
		return err
	case res.StatusCode >= http.StatusMultipleChoices:
		return fmt.Errorf("%s: %s", res.Status, bytes.TrimSpace(answer))
	case bytes.HasPrefix(answer, []byte(`{"error"`)): // what Centrifugo says with a 200
		return errors.New(string(answer))
	}
	return nil
}

func (h *httpPublisher) close() error {
	h.client.CloseIdleConnections()
	return nil
}

// A linePublisher writes to a bare server's input, which sends each line to all.
type linePublisher struct{ w io.Writer }

func (l linePublisher) publish(_ context.Context, _ string, payloads []string, sent func()) error {
	sent()
	_, err := io.WriteString(l.w, strings.Join(payloads, "\n")+"\n")
	return err
}

func (linePublisher) close() error { return nil }
