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
		"help_topologies":    "Topologies to make; they are named topocheck-<seed>-<n> and removed at the end.",
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
	}
}
