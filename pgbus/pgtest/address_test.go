package pgtest_test

import (
	"testing"

	"topostream/pgbus/pgtest"
)

func TestNoAddressIsGivenTwiceWhileATestLasts(t *testing.T) {
	t.Parallel()
	given := make(map[string]bool)
	for range 300 { // two of 300 are the same with a probability of 99 % where nothing holds them
		address := pgtest.FreeAddress(t)
		if given[address] {
			t.Fatalf("%s is given twice", address)
		}
		given[address] = true
	}
}
