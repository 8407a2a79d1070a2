package main

import "time"

type mutatorCmd struct {
	DatabaseURL  string        `env:"TOPOSTREAM_DATABASE_URL,DATABASE_URL" help:"PostgreSQL connection string."`
	Concurrency  int           `default:"4" help:"Topologies worked on at once."`
	MaxAttempts  int           `default:"3" help:"Leases after which a mutation fails."`
	Lease        time.Duration `default:"30s" help:"How long a worker may be silent."`
	ApplyExec    string        `help:"Command that acts on the outside world."`
	ApplyURL     string        `help:"URL that acts on the outside world."`
	ApplyTimeout time.Duration `default:"30s" help:"Limit for one apply."`
}

func (*mutatorCmd) Run() error { return errNotBuilt("`topostream mutator`") }

type busCmd struct {
	Bus         string `arg:"" enum:"notify,wal,status" help:"notify, wal, or status."`
	DatabaseURL string `env:"TOPOSTREAM_DATABASE_URL,DATABASE_URL" help:"PostgreSQL connection string."`
}

func (*busCmd) Run() error { return errNotBuilt("`topostream bus`") }
