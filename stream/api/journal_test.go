package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"

	"topostream/stream"
)

// longJournals has journals as long as an answer may be.
type longJournals struct{ noTopologies }

func (longJournals) Journal(context.Context, stream.TopologyID, stream.Seq, int) (stream.JournalPage, error) {
	return stream.JournalPage{First: 1, Head: 1, Events: []json.RawMessage{bytes.Repeat([]byte{'1'}, journalBytes)}}, nil
}

// stuckWriter is a client that does not read until it may.
type stuckWriter struct {
	*httptest.ResponseRecorder

	may <-chan struct{}
}

func (w stuckWriter) Write(p []byte) (int, error) {
	<-w.may
	return w.ResponseRecorder.Write(p)
}

func TestAnswersOfTheJournalThatNobodyReadsAreBoundedTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{
			Bus: longJournals{}, Store: noTopologies{}, Stats: &stream.Stats{},
			Auth: func(*http.Request) (stream.Principal, error) { return stream.Principal{Role: stream.RoleViewer}, nil },
		})
		const path = basePath + "/topologies/" + someTopology + "/journal"
		may := make(chan struct{})
		var stuck sync.WaitGroup
		for range journalsBytes / journalBytes {
			stuck.Go(func() {
				s.Handler().ServeHTTP(stuckWriter{httptest.NewRecorder(), may}, httptest.NewRequest(http.MethodGet, path, nil))
			})
		}
		synctest.Wait()
		if res := ask(s, http.MethodGet, path, ""); res.Code != http.StatusServiceUnavailable || res.Header().Get("Retry-After") == "" {
			t.Errorf("one more gets %d", res.Code)
		}
		close(may)
		stuck.Wait()
		if res := ask(s, http.MethodGet, path, ""); res.Code != http.StatusOK || res.Body.Len() < journalBytes {
			t.Errorf("when they are gone it gets %d and %d bytes", res.Code, res.Body.Len())
		}
	})
}
