package auth

import (
	"crypto/sha256"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"topostream/stream"
)

// Bounds of the tokens that are kept. A longer one is verified each time.
const (
	keptShards  = 16
	keptEach    = 1024    // tokens in a shard
	longestKept = 1 << 10 // bytes
)

// verified are the tokens that were verified last, by their SHA-256: a client that comes again with the same token
// costs no check of a signature. Tokens that were refused are not kept: how many there are is an attacker's choice.
// Each shard has a lock of its own. Any goroutine may use it.
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

// find gives the principal of a token that was verified by the keys of this generation. exp and nbf are checked each
// time, as for a token that is not kept.
func (v *verified) find(hash tokenHash, generation any, now time.Time) (p stream.Principal, ok bool) {
	t, ok := v.shard(hash).Get(hash)
	if !ok || t.generation != generation || !now.Before(t.principal.Expires) || now.Add(clockSkew).Before(t.notBefore) {
		return stream.Principal{}, false
	}
	return t.principal, true
}

// keep keeps a token. Its generation was read before it was verified: if the keys were replaced meanwhile, the former
// ones may have verified it, and find does not give it.
func (v *verified) keep(hash tokenHash, t verifiedToken) { v.shard(hash).Add(hash, t) }

func (v *verified) shard(hash tokenHash) *lru.Cache[tokenHash, verifiedToken] {
	return v[hash[0]%keptShards]
}
