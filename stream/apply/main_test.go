package apply

import (
	"testing"

	"go.uber.org/goleak"
	"topostream/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mutation() stream.Mutation {
	return stream.Mutation{
		ID: "5b0a7c2e-6f0e-4a57-9d0c-0c6f7a1f4d11", Topology: "0d9f5a34-8f43-4b0e-9b0b-3f7d0d1c2b3a",
		Op: "add_lan", Payload: []byte(`{"name":"lan-9"}`), Attempt: 1,
	}
}

func wantReason(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("the reason is %q, want %q", err, want)
	}
}
