package main

type busCmd struct {
	Bus         string `arg:"" enum:"notify,wal,status" help:"notify, wal, or status."`
	DatabaseURL string `env:"TOPOSTREAM_DATABASE_URL,DATABASE_URL" help:"PostgreSQL connection string."`
}

func (*busCmd) Run() error { return errNotBuilt("`topostream bus`") }
