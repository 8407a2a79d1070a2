package embedding_test

import (
	"testing"

	"topostream/pgbus/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
