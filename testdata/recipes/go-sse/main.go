// Command go-sse follows a topology with the client of tmaxmax/go-sse, which reconnects and resumes by itself.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/tmaxmax/go-sse"
)

func main() { // TOKEN=… go run ./testdata/recipes/go-sse http://127.0.0.1:8080 <topology id>
	req, err := http.NewRequest(http.MethodGet, os.Args[1]+"/api/v1/topologies/"+os.Args[2]+"/events", nil)
	if err != nil {
		log.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+os.Getenv("TOKEN"))
	connection := sse.NewConnection(req) // which tries again for ever, but not after another status than 200
	connection.Buffer(nil, 32<<20)       // an event may have 16 MiB
	connection.SubscribeToAll(func(e sse.Event) { fmt.Println(e.Type, e.LastEventID, e.Data) })
	log.Fatal(connection.Connect())
}
