package pgbus

import (
	"context"
	"fmt"
)

// listWalked is the first version of PostgreSQL that finds a channel by hash: before it, a backend walks the list of its channels for each notification of
// the database (IsListeningOn in src/backend/commands/async.c), so that an event costs the more the more topologies are attached.
const listWalked = 190000

// adviseWAL says once that so many topologies are attached on notify that wal would serve them better.
func (b *Bus) adviseWAL(ctx context.Context) error {
	const version = `SELECT current_setting('server_version_num')::int`
	channels := b.stats.Channels.Load()
	if b.walWanted() || channels <= b.cfg.ManyChannels || b.advised.Load() {
		return nil
	}
	var v int
	if err := b.cfg.Pool.QueryRow(ctx, version).Scan(&v); err != nil {
		return fmt.Errorf("ask for PostgreSQL's version: %w", err)
	}
	if b.advised.Swap(true) || v >= listWalked {
		return nil
	}
	b.log.Warn("many topologies are attached, and PostgreSQL walks through all their channels for each event: the bus wal would serve better; `topostream bus wal` switches, also while clients are connected",
		"channels", channels)
	return nil
}
