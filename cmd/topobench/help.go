package main

import "github.com/alecthomas/kong"

// flagHelp is what --help says of flags whose text does not fit beside them.
func flagHelp() kong.Vars {
	return kong.Vars{ //nolint:gosec // words about secrets are none
		"help_url": "Address of a server or a balancer (repeatable: clients spread over them). Without one, a stage " +
			"is started: PostgreSQL, servers and a worker of the checker's own.",
		"help_databaseurl": "The servers' database: where writers commit and the journal is read. Of the role that owns " +
			"the tables, or of one that may do what injector, worker and reader may.",
		"help_token": "Token of role admin. Servers limit the streams of one subject: --max-streams-per-user must be 0" +
			" or above --clients.",
		"help_jwtsecretfile": "File of the servers' JWT secret, to sign tokens with.",
		"help_topologies":    "Topologies to make; they are named topobench-<seed>-<n> and removed at the end.",
		"help_backlog": "Mutations in flight in the largest of six more topologies, whose documents are bounded; 0: " +
			"none.",
		"help_clients": "Clients, as many of each of five kinds: steady, dropping, slow, arriving, several.",
		"help_idle":    "After this silence a client comes again: three times the servers' --keepalive.",
		"help_rate":    "Transactions a second of all writers together; 0 is as fast as it goes.",
		"help_faults": "Faults to inject: all, none, or families and kinds parted by commas, for example " +
			"postgres,server.kill. With --url only what SQL can do.",
		"help_maylose":     "A failover that takes committed transactions back with a new epoch is no violation.",
		"help_postgresbin": "Directory of the stage's PostgreSQL programs. Default: what the machine has.",
		"help_topostream":  "The stage's topostream. Default: built from the module that we are in, else the one in PATH.",
		"help_oldbinary": "A topostream of the version before: the stage begins with it, and is upgraded in the middle of " +
			"the run.",
		"help_keeplogs": "Leave the logs of the stage behind, and say where; when something went wrong they are left " +
			"anyway.",
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
		"help_check": "Check that no event is lost, doubled or reordered, while writers write and things break.",
	}
}
