package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"topostream/stream"
	streamclient "topostream/stream/client"
)

// An awaited event is the one that --until names. The zero value is any event.
type awaited struct {
	once    bool
	event   string
	payload *regexp.Regexp // nil: any
}

// until reads --until.
func (c *tailCmd) until() (awaited, error) {
	if c.Until == "" {
		if c.Timeout != 0 {
			return awaited{}, errors.New("--timeout is for --until: give the event that is waited for")
		}
		return awaited{}, nil
	}
	event, pattern, _ := strings.Cut(c.Until, "=")
	if !stream.ValidType(event) {
		return awaited{}, fmt.Errorf("--until: %q is no type of an event", event)
	}
	payload, err := regexp.Compile(pattern)
	if err != nil {
		return awaited{}, fmt.Errorf("--until: %w", err)
	}
	return awaited{true, event, payload}, nil
}

// matches knows the event by its type and payload, however PostgreSQL or whoever wrote it puts spaces into its JSON.
func (a awaited) matches(e streamclient.Event) bool {
	if !a.once {
		return true
	}
	if e.Type != a.event {
		return false
	}
	var compact bytes.Buffer
	return a.payload.Match(e.Payload) ||
		json.Compact(&compact, e.Payload) == nil && a.payload.Match(compact.Bytes())
}

func (c *tailCmd) timedOut() error {
	return codedError{exitTimeout, fmt.Errorf("%s has not come within %s", c.Until, c.Timeout)}
}
