package sse_test

import (
	"fmt"

	"topostream/stream/sse"
)

func ExampleAppendFrame() {
	fmt.Print(string(sse.AppendFrame(nil, "status", 42, []byte(`{"state":"active"}`))))
	// Output:
	// event: status
	// id: 42
	// data: {"state":"active"}
}
