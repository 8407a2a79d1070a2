package contract

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// An exchange is one request and its answer.
type exchange struct {
	contract *Contract
	method   string
	url      url.URL
	sent     http.Header
	body     []byte // that was sent; nil: none, or it is not known
	status   int
	header   http.Header
}

// ofHTTP are headers of HTTP itself, which need no description.
var ofHTTP = []string{ //nolint:gochecknoglobals // constant
	"Content-Type", "Content-Length", "Content-Encoding", "Date", "Connection", "Transfer-Encoding",
}

// response gives what is described for the answer.
func (e *exchange) response() (*response, error) {
	operation, routed := e.contract.find(e.method, e.url.Path)
	switch {
	case operation != nil:
		if r, ok := operation.responses[e.status]; ok {
			return r, nil
		}
		return nil, errors.New("the status is not described")
	case e.method == http.MethodOptions && e.sent.Get("Access-Control-Request-Method") != "":
		return &response{free: true}, nil // a preflight is the Fetch standard's
	case routed == nil && e.status != http.StatusNotFound && e.status != http.StatusRequestHeaderFieldsTooLarge:
		return nil, errors.New("the address is not described")
	case routed != nil && e.status == http.StatusMethodNotAllowed:
		allowed := strings.Split(e.header.Get("Allow"), ", ")
		slices.Sort(allowed)
		slices.Sort(routed)
		if !slices.Equal(allowed, routed) {
			return nil, fmt.Errorf("it allows %v, and described are %v", allowed, routed)
		}
	}
	if r, ok := e.contract.elsewhere[e.status]; ok {
		return r, nil
	}
	return nil, errors.New("the method is not described")
}

// head gives what is wrong with the status and the headers.
func (e *exchange) head() error {
	r, err := e.response()
	if err != nil || r.free {
		return err
	}
	var errs []error
	known := maps.Clone(r.headers)
	if !r.bare {
		maps.Copy(known, e.contract.sometimes)
		for name, h := range e.contract.always {
			known[name] = header{true, h.value}
		}
	}
	maps.Copy(known, r.headers)
	for name, h := range known {
		if _, ok := e.header[name]; !ok && h.required {
			errs = append(errs, fmt.Errorf("there is no %s", name))
		}
	}
	for name, values := range e.header {
		h, ok := known[name]
		switch {
		case slices.Contains(ofHTTP, name):
		case !ok:
			errs = append(errs, fmt.Errorf("the header %s is not described", name))
		default:
			if err := h.value.check(values); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		}
	}
	if _, ok := r.schema(e.header); !ok {
		errs = append(errs, fmt.Errorf("the Content-Type %q is not described", e.header.Get("Content-Type")))
	}
	return errors.Join(errs...)
}

// schema gives the one of the body, nil for none; false: no body of that type is described.
func (r *response) schema(header http.Header) (s *jsonschema.Schema, ok bool) {
	kind, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	if kind == "" && len(r.content) == 0 {
		return nil, true
	}
	if s, ok = r.content[kind]; !ok {
		s, ok = r.content["*/*"]
	}
	return s, ok
}

// check validates text.
func (v value) check(values []string) error {
	if v.schema == nil {
		return nil
	}
	if v.kind == "array" {
		list := make([]any, len(values))
		for i, text := range values {
			list[i] = text
		}
		return v.schema.Validate(list)
	}
	for _, text := range values {
		var one any = text
		if _, err := strconv.ParseInt(text, 10, 64); err == nil && v.kind == "integer" {
			one = json.Number(text)
		}
		if err := v.schema.Validate(one); err != nil {
			return err
		}
	}
	return nil
}

// whole gives what is wrong with a body that is no stream, and, where the server has taken it, with the request.
func (e *exchange) whole(body []byte) error {
	r, _ := e.response()
	if r == nil || r.free {
		return nil // what is not described, head has said
	}
	schema, ok := r.schema(e.header)
	if !ok {
		return nil // as above
	}
	if schema == nil {
		if len(body) > 0 {
			return fmt.Errorf("it has a body: %.200q", body)
		}
		return e.request()
	}
	if err := validate(schema, e.header.Get("Content-Type"), body); err != nil {
		return fmt.Errorf("body: %w\n%.2000s", err, body)
	}
	return e.request()
}

// validate takes JSON as such and everything else as text; of YAML there is one, this description, which is an object.
func validate(schema *jsonschema.Schema, contentType string, body []byte) error {
	kind, _, _ := mime.ParseMediaType(contentType)
	var v any
	switch {
	case kind == "application/json" || strings.HasSuffix(kind, "+json"):
		var err error
		if v, err = jsonschema.UnmarshalJSON(bytes.NewReader(body)); err != nil {
			return err
		}
	case kind == "application/yaml":
		v = map[string]any{}
	default:
		v = string(body)
	}
	return schema.Validate(v)
}

// request gives what is wrong with a request that the server has taken.
func (e *exchange) request() error {
	operation, _ := e.contract.find(e.method, e.url.Path)
	if operation == nil || e.status >= http.StatusMultipleChoices {
		return nil
	}
	var errs []error
	query := e.url.Query()
	for _, p := range operation.parameters {
		values := query[p.name]
		switch p.in {
		case "header":
			values = e.sent.Values(p.name)
		case "path":
			continue // the server has found what it names
		}
		values = slices.DeleteFunc(slices.Clone(values), func(v string) bool { return v == "" }) // as if it were not given
		if len(values) > 0 {
			if err := p.value.check(values); err != nil {
				errs = append(errs, fmt.Errorf("the server takes a %s that is not described: %w", p.name, err))
			}
		}
	}
	reads := e.method != http.MethodGet && e.method != http.MethodHead // by GET and HEAD nobody reads one
	if len(e.body) > 0 && reads {
		schema := operation.body["application/json"]
		if schema == nil {
			errs = append(errs, errors.New("the server takes a body, and none is described"))
		} else if err := validate(schema, "application/json", e.body); err != nil {
			errs = append(errs, fmt.Errorf("the server takes a body that is not described: %w\n%.2000s", err, e.body))
		}
	}
	return errors.Join(errs...)
}

// Frames gives what is wrong with frames of a stream that the operation of method and path answers with.
func (c *Contract) Frames(method, path string, frames []byte) error {
	operation, _ := c.find(method, path)
	if operation == nil || operation.responses[http.StatusOK] == nil {
		return fmt.Errorf("%s %s is not described", method, path)
	}
	schema := operation.responses[http.StatusOK].content["text/event-stream"]
	if schema == nil {
		return fmt.Errorf("%s %s is no stream", method, path)
	}
	for text := range bytes.SplitSeq(frames, []byte("\n\n")) {
		if err := frame(schema, string(text)); err != nil {
			return fmt.Errorf("frame: %w\n%.2000s", err, text)
		}
	}
	return nil
}

// frame checks one, without the empty line at its end, by the SSE specification's rules (section 9.2.6).
func frame(schema *jsonschema.Schema, text string) error {
	members := map[string]any{}
	var data []string
	for line := range strings.SplitSeq(text, "\n") {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "": // a comment, or the end
		case "data":
			data = append(data, value)
		case "event", "id":
			members[name] = value
		case "retry":
			if _, err := strconv.ParseUint(value, 10, 31); err != nil {
				return fmt.Errorf("retry: %w", err)
			}
		default:
			return fmt.Errorf("%q is no field", name)
		}
	}
	if len(data) == 0 {
		if len(members) > 0 {
			return errors.New("it has no data")
		}
		return nil
	}
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(strings.Join(data, "\n")))
	if err != nil {
		return err
	}
	members["data"] = v
	return schema.Validate(members)
}
