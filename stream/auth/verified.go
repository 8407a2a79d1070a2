package auth

import (
	"crypto/sha256"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"topostream/stream"
)

// Bounds of the tokens that are kept. Who comes with a longer one is verified each time.
const (
	keptShards  = 16
	keptEach    = 1024 // in a shard
	longestKept = 1 << 10
)

// verified are the newest tokens that were verified, by their SHA-256: a client that comes back, as all do when a
// server restarts, costs no signature. Tokens that were refused are not kept: their number is the attacker's. Each
// shard has a lock of its own. Any goroutine may use it.
type verified [keptShards]*lru.Cache[tokenHash, verifiedToken]

type tokenHash [sha256.Size]byte

// A verifiedToken is what is known of a token that the keys of a generation have verified.
type verifiedToken struct {
	principal  stream.Principal // nobody changes its Topologies
	notBefore  time.Time        // zero: always
	generation any
}

func newVerified() (v verified) {
	for i := range v {
		shard, err := lru.New[tokenHash, verifiedToken](keptEach)
		if err != nil {
			panic(err) // the size is above 0
		}
		v[i] = shard
	}
	return v
}

// find gives what is known of a token, if the same keys would verify it still. A token that is kept ends, and begins,
// as any other.
func (v *verified) find(hash tokenHash, generation any, now time.Time) (p stream.Principal, ok bool) {
	t, ok := v.shard(hash).Get(hash)
	if !ok || t.generation != generation || !now.Before(t.principal.Expires) || now.Add(clockSkew).Before(t.notBefore) {
		return stream.Principal{}, false
	}
	return t.principal, true
}

// keep keeps a token. generation was read before it was verified: keys that went meanwhile may be those that did.
func (v *verified) keep(hash tokenHash, t verifiedToken) { v.shard(hash).Add(hash, t) }

func (v *verified) shard(hash tokenHash) *lru.Cache[tokenHash, verifiedToken] {
	return v[hash[0]%keptShards]
}
