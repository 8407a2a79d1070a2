package stream_test

import (
	"context"
	"fmt"

	"topostream/stream"
)

// A feed is shared; each client has a cursor of its own.
func ExampleFeed() {
	feed := stream.NewFeed(stream.FeedConfig{Base: 41}) // the snapshot's seq
	client := feed.Cursor(41)
	for _, seq := range []stream.Seq{42, 43, 43, 45} {
		fmt.Println(seq, feed.Append(stream.Frame{Seq: seq, Bytes: []byte("event: x\n\n")}))
	}
	frames, _, err := client.Next(context.Background(), make([]stream.Frame, 0, 64))
	fmt.Println(len(frames), client.Last(), err)
	// Output:
	// 42 appended
	// 43 appended
	// 43 duplicate
	// 45 hole
	// 2 43 <nil>
}
