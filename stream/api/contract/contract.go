// Package contract holds what a server answers against openapi.yaml. It is for tests: a route, a status, a header or a
// member of a body that the description does not have is an error, though clients of the server must bear it.
package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// A Contract is a description that has been read. Any goroutine may use it.
type Contract struct {
	operations []*Operation
	always     map[string]header // of every answer
	sometimes  map[string]header
	elsewhere  map[int]*response // of addresses and methods that are not described

	mu    sync.Mutex
	tests map[string]Test // by address of their servers
}

// An Operation is one method of one path.
type Operation struct {
	Method, Path string
	Statuses     []int
	Protected    bool // it takes a token
	Examples     []Example

	parameters []parameter
	body       map[string]*jsonschema.Schema // by media type; nil: it takes none
	responses  map[int]*response
}

// An Example is one of a request's body or of an answer's.
type Example struct {
	Status int // 0: of a request
	Body   string
	Err    error // why it is not of its schema
}

type response struct {
	free    bool // it may be as it likes
	bare    bool // net/http's own: it has not even the headers of every answer
	headers map[string]header
	content map[string]*jsonschema.Schema // by media type; none: no body
}

type header struct {
	required bool
	value    value
}

type parameter struct {
	name, in string
	value    value
}

// A value is a header's or a parameter's, which come as text.
type value struct {
	schema *jsonschema.Schema
	kind   string // the schema's type
}

// Read reads a description in YAML.
func Read(path string) (*Contract, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var raw any
	if err := yaml.Unmarshal(text, &raw); err != nil { // with anchors and merge keys resolved
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	encoded, err := json.Marshal(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(encoded))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	closed(document)
	r := reader{document: document, compiler: jsonschema.NewCompiler()}
	r.compiler.AssertFormat()
	if err := r.compiler.AddResource(documentURL, document); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	c := r.contract()
	if r.err != nil {
		return nil, fmt.Errorf("%s: %w", path, r.err)
	}
	return c, nil
}

// closed makes each object of the description one that has no other members. Clients must bear new ones, so that the
// description does not say it.
func closed(v any) {
	switch v := v.(type) {
	case map[string]any:
		_, some := v["properties"].(map[string]any)
		if _, said := v["additionalProperties"]; some && !said && v["type"] == "object" {
			v["unevaluatedProperties"] = false
		}
		for _, member := range v {
			closed(member)
		}
	case []any:
		for _, member := range v {
			closed(member)
		}
	}
}

// Operations are all, in the order of their paths.
func (c *Contract) Operations() []*Operation { return c.operations }

// find gives the operation of a request; routed tells whether its address has any.
func (c *Contract) find(method, path string) (found *Operation, routed []string) {
	if path = strings.TrimRight(path, "/"); path == "" { // a slash at the end is taken off
		path = "/"
	}
	var best string
	for _, o := range c.operations {
		if !matches(o.Path, path) || best != "" && strings.Contains(o.Path, "{") && o.Path != best {
			continue
		}
		if o.Path != best { // one without a variable wins
			best, routed, found = o.Path, nil, nil
		}
		routed = append(routed, o.Method)
		if o.Method == method {
			found = o
		}
	}
	return found, routed
}

// matches tells whether a path is one of a pattern. What is behind /console/ may have slashes.
func matches(pattern, path string) bool {
	said, parts := strings.Split(pattern, "/"), strings.Split(path, "/")
	if last := len(said) - 1; said[last] == "{file}" && len(parts) > len(said) {
		parts = append(parts[:last:last], strings.Join(parts[last:], "/"))
	}
	if len(said) != len(parts) {
		return false
	}
	for i, part := range parts {
		if said[i] != part && (!strings.HasPrefix(said[i], "{") || part == "") {
			return false
		}
	}
	return true
}

const documentURL = "https://topostream.invalid/openapi.json"

// A reader walks the description. It keeps its first error.
type reader struct {
	document any
	compiler *jsonschema.Compiler
	err      error
}

// A node is a place of the description.
type node struct {
	at string // JSON pointer (RFC 6901)
	v  any
}

// get gives a member, and what it refers to.
func (r *reader) get(n node, name string) node {
	members, _ := n.v.(map[string]any)
	v, ok := members[name]
	if !ok {
		return node{}
	}
	escaped := strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
	return r.follow(node{n.at + "/" + escaped, v})
}

func (r *reader) follow(n node) node {
	members, _ := n.v.(map[string]any)
	ref, ok := members["$ref"].(string)
	if !ok {
		return n
	}
	target := node{v: r.document}
	for name := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
		target = r.get(target, name)
	}
	if target.v == nil && r.err == nil {
		r.err = fmt.Errorf("%s: %s leads nowhere", n.at, ref)
	}
	return target
}

// names gives the names of the members in their order.
func names(n node) (all []string) {
	members, _ := n.v.(map[string]any)
	for name := range members {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

func (r *reader) schema(n node) *jsonschema.Schema {
	if n.v == nil {
		return nil
	}
	pointer := strings.NewReplacer("%", "%25", "{", "%7B", "}", "%7D", " ", "%20").Replace(n.at)
	schema, err := r.compiler.Compile(documentURL + "#" + pointer)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("%s: %w", n.at, err)
	}
	return schema
}

func (r *reader) value(n node) value {
	schema := r.get(n, "schema")
	kind, _ := r.get(schema, "type").v.(string)
	return value{r.schema(schema), kind}
}

func (r *reader) contract() *Contract {
	root := node{v: r.document}
	c := &Contract{elsewhere: map[int]*response{}, tests: map[string]Test{}}
	every := r.get(root, "x-every-answer")
	c.always, c.sometimes = r.headers(r.get(every, "required")), r.headers(r.get(every, "sometimes"))
	elsewhere := r.get(root, "x-elsewhere")
	for _, status := range names(elsewhere) {
		code, _ := strconv.Atoi(status)
		c.elsewhere[code] = r.response(r.get(elsewhere, status), nil, code)
	}
	paths := r.get(root, "paths")
	for _, path := range names(paths) {
		item := r.get(paths, path)
		for _, method := range names(item) {
			if method != "parameters" {
				c.operations = append(c.operations, r.operation(path, method, item))
			}
		}
	}
	return c
}

func (r *reader) operation(path, method string, item node) *Operation {
	n := r.get(item, method)
	o := &Operation{Method: strings.ToUpper(method), Path: path, responses: map[int]*response{}}
	o.Protected = r.get(n, "security").v == nil
	o.parameters = append(r.parameters(r.get(item, "parameters")), r.parameters(r.get(n, "parameters"))...)
	if body := r.get(n, "requestBody"); body.v != nil {
		o.body = r.content(r.get(body, "content"), o, 0)
	}
	responses := r.get(n, "responses")
	for _, status := range names(responses) {
		code, err := strconv.Atoi(status)
		if err != nil && r.err == nil {
			r.err = fmt.Errorf("%s: %q is no status", responses.at, status)
		}
		o.Statuses = append(o.Statuses, code)
		o.responses[code] = r.response(r.get(responses, status), o, code)
	}
	return o
}

func (r *reader) parameters(list node) (all []parameter) {
	items, _ := list.v.([]any)
	for i, item := range items {
		n := r.follow(node{list.at + "/" + strconv.Itoa(i), item})
		name, _ := r.get(n, "name").v.(string)
		in, _ := r.get(n, "in").v.(string)
		all = append(all, parameter{name, in, r.value(n)})
	}
	return all
}

func (r *reader) response(n node, of *Operation, status int) *response {
	bare, _ := r.get(n, "x-bare").v.(bool)
	return &response{
		bare: bare, headers: r.headers(r.get(n, "headers")), content: r.content(r.get(n, "content"), of, status),
	}
}

func (r *reader) headers(n node) map[string]header {
	all := map[string]header{}
	for _, name := range names(n) {
		one := r.get(n, name)
		required, _ := r.get(one, "required").v.(bool)
		all[http.CanonicalHeaderKey(name)] = header{required, r.value(one)}
	}
	return all
}

func (r *reader) content(n node, of *Operation, status int) map[string]*jsonschema.Schema {
	all := map[string]*jsonschema.Schema{}
	for _, kind := range names(n) {
		one := r.get(n, kind)
		all[kind] = r.schema(r.get(one, "schema"))
		if of != nil && all[kind] != nil {
			of.Examples = append(of.Examples, r.examples(one, all[kind], status)...)
		}
	}
	return all
}

func (r *reader) examples(n node, schema *jsonschema.Schema, status int) (all []Example) {
	var values []any
	if one := r.get(n, "example"); one.v != nil {
		values = append(values, one.v)
	}
	several := r.get(n, "examples")
	for _, name := range names(several) {
		values = append(values, r.get(r.get(several, name), "value").v)
	}
	for _, v := range values {
		text, err := json.Marshal(v)
		if err == nil {
			err = schema.Validate(v)
		}
		all = append(all, Example{status, string(text), err})
	}
	return all
}
