package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"topostream/pgbus/pgtest"
)

// The package in Node: a program that follows topologies and prints what it gets, a line for each: "event ID SEQ TYPE",
// "snapshot ID SEQ", "violation JSON".
const nodeProgram = `
	const { TopologyStream } = await import(process.env.CLIENT);
	new TopologyStream({
		url: process.env.SERVER, getToken: () => process.env.TOKEN, topologies: process.env.IDS.split(' '),
		onViolation: (violation) => console.log('violation', JSON.stringify(violation)),
		onEvent: (e) => {
			if (e.kind === 'snapshot') console.log('snapshot', e.topology_id, e.seq);
			if (e.kind === 'event') console.log('event', e.topology_id, e.seq, e.type);
		},
	});`

func TestThePackagedClientInNodeEndsEqualToTheJournalThoughTheServerIsKilled(t *testing.T) {
	t.Parallel()
	slow(t)
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("no Node on this machine: install it, for example `apt-get install nodejs`")
	}
	client, err := filepath.Abs("../../stream/client/js/dist/topostream.js")
	if err != nil {
		t.Fatal(err)
	}
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := live(t, conn, 5)
	address, start := killable(t, db.URL)
	server := start()
	cmd := exec.Command(node, "--input-type=module", "--eval", nodeProgram)
	cmd.Env = cleanEnv("CLIENT=file://"+client, "SERVER=http://"+address, "TOKEN="+testToken(t),
		"IDS="+strings.Join(ids, " "))
	program := startProcess(t, cmd)
	for _, id := range ids {
		program.out.await(t, "snapshot "+id, program.ended)
	}
	for range 2 {
		for i, id := range ids {
			for range i + 1 {
				emit(t, conn, id)
			}
		}
		<-server.signal(syscall.SIGKILL) // some of it may have been sent, some not
		for _, id := range ids {
			emit(t, conn, id) // nobody listens
		}
		server = start()
		for _, id := range ids {
			program.out.await(t, fmt.Sprintf("event %s %d ", id, emit(t, conn, id)), program.ended)
		}
	}
	got := make(map[string][]string) // of each topology
	began := make(map[string]uint64)
	for line := range strings.Lines(program.out.String()) {
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		id, rest, _ := strings.Cut(rest, " ")
		switch {
		case kind == "event":
			got[id] = append(got[id], rest)
		case kind == "snapshot" && began[id] == 0:
			if began[id], err = strconv.ParseUint(rest, 10, 64); err != nil {
				t.Fatal(err)
			}
		default:
			t.Error(line) // a second snapshot, or whatever breaks the promise
		}
	}
	for _, id := range ids {
		if want := journalRows(t, conn, id, began[id]); !slices.Equal(got[id], want) {
			t.Errorf("%s: the program has %v, the journal %v", id, got[id], want)
		}
	}
}
