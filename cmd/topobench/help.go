package main

import "github.com/alecthomas/kong"

// flagHelp is what --help says of flags whose text does not fit beside them.
func flagHelp() kong.Vars {
	return kong.Vars{ //nolint:gosec // words about secrets are none
		"help_bench_databaseurl": "Superuser's address of a server; the run makes a database there and drops it. Without " +
			"one, a private PostgreSQL is started.",
		"help_bench_topostream": "Path of topostream. Without one, it is built from the module in this directory.",
		"help_duration": "Length of a round: so long idle, and so long under load. The server's heartbeat comes every 10 " +
			"s.",
		"help_measure_databaseurl": "Superuser's address of a server; the run makes a database there and drops it. Without " +
			"one, a private PostgreSQL is started. With --url: the database where events are published.",
		"help_serveflag": "Further flag of our server, for example --serve-flag=--keepalive=5s (repeatable).",
		"help_measure_url": "Measure this server, which runs already, instead of starting ours: http:// is SSE, ws:// is " +
			"WebSocket, {topology} becomes a topology's id, {token} the token.",
		"help_measure_token": "Token for --url, sent as Authorization: Bearer unless the URL has {token}.",
		"help_snapshot": "Name of the event that holds the state, with which a client is ready. Default: snapshot for a " +
			"topostream; none where --publish-… or --ready says that --url is none.",
		"help_ready": "Text in the first frame that says that the server has taken a client. Without this and --snapshot " +
			"the answer's head says so.",
		"help_topology": "Topology of --url (repeatable). Without any, a topostream's are made in its database, and any " +
			"other's are bench-0, bench-1 and so on.",
		"help_publishsql": "Publish by this statement: $1 is the topology, $2 the event's JSON. Default, if no other way " +
			"is given: topostream's topology_emit.",
		"help_pid": "Process of the server at --url, on this machine: its CPU time and memory are read from /proc.",
		"help_gcurl": "Asked twice before memory is read, so that the server collects its garbage and gives free memory " +
			"back. Our own server that is started here is asked at /debug/free without this, too; none: nobody is asked.",
		"help_peers": "YAML file of servers to run beside ours; bench.ReadPeers in cmd/topobench/bench/compare.go has an " +
			"example.",
	}
}
