package api

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"go.yaml.in/yaml/v3"
)

// A described operation is one method of one path in openapi.yaml.
type described struct {
	OperationID string           `yaml:"operationId"`
	Security    *[]any           `yaml:"security"`
	Responses   map[string]any   `yaml:"responses"`
	Parameters  []map[string]any `yaml:"parameters"`
	Rest        map[string]any   `yaml:",inline"`
}

func fullServer() *Server {
	nothing := http.NotFoundHandler()
	return New(Config{ConsoleHandler: nothing, ClientHandler: nothing, TabsHandler: nothing, MetricsHandler: nothing})
}

func TestTheDescriptionIsServedWithoutATokenAndHasEveryRouteAndNoOther(t *testing.T) {
	t.Parallel()
	handler := fullServer().Handler()
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/openapi.yaml", nil))
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/yaml" {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	var document struct {
		OpenAPI string                          `yaml:"openapi"`
		Paths   map[string]map[string]yaml.Node `yaml:"paths"`
	}
	if err := yaml.Unmarshal(w.Body.Bytes(), &document); err != nil || document.OpenAPI != "3.1.0" {
		t.Fatalf("%q: %v", document.OpenAPI, err)
	}
	var routes, inDocument, ids []string
	add := func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		path := strings.Replace(route, "*", "{file}", 1)
		routes = append(routes, method+" "+path)
		if method == http.MethodGet {
			routes = append(routes, http.MethodHead+" "+path)
		}
		return nil
	}
	if err := chi.Walk(handler.(chi.Routes), add); err != nil { //nolint:forcetypeassert // a test
		t.Fatal(err)
	}
	for path, methods := range document.Paths {
		for method, node := range methods {
			if method == "parameters" {
				continue
			}
			inDocument = append(inDocument, strings.ToUpper(method)+" "+path)
			var op described
			if err := node.Decode(&op); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, op.OperationID)
			for _, status := range []string{"401", "403", "429"} {
				_, said := op.Responses[status]
				protected := strings.HasPrefix(path, basePath)
				// Every token may see what of the list is its own.
				open := status == "403" && method != "post" && strings.HasSuffix(strings.TrimSuffix(path, "/events"), "/topologies")
				if said != (protected && !open) || protected == (op.Security != nil) {
					t.Errorf("%s %s: %s described: %v, security: %v", method, path, status, said, op.Security)
				}
			}
		}
	}
	slices.Sort(routes)
	slices.Sort(inDocument)
	if !slices.Equal(routes, inDocument) {
		t.Errorf("the routes are\n%s\nthe description has\n%s", strings.Join(routes, "\n"), strings.Join(inDocument, "\n"))
	}
	slices.Sort(ids)
	if ids[0] == "" || len(slices.Compact(ids)) != len(routes) {
		t.Errorf("the ids of operations are not unique: %v", ids)
	}
}

func TestEveryReferenceInTheDescriptionLeadsSomewhere(t *testing.T) {
	t.Parallel()
	var document map[string]any
	if err := yaml.Unmarshal(description, &document); err != nil {
		t.Fatal(err)
	}
	var follow func(v any)
	follow = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok && lookUp(document, strings.Split(strings.TrimPrefix(ref, "#/"), "/")) == nil {
				t.Errorf("%s leads nowhere", ref)
			}
			for _, member := range v {
				follow(member)
			}
		case []any:
			for _, member := range v {
				follow(member)
			}
		}
	}
	follow(document)
}

func lookUp(v any, path []string) any {
	for _, name := range path {
		members, _ := v.(map[string]any)
		v = members[name]
	}
	return v
}

func TestAMutationIsDescribedAsTheInterfaceHasIt(t *testing.T) {
	t.Parallel()
	var document struct {
		Paths      map[string]map[string]yaml.Node
		Components struct {
			Schemas map[string]struct {
				Required   []string
				Properties map[string]any
			}
		}
	}
	if err := yaml.Unmarshal(description, &document); err != nil {
		t.Fatal(err)
	}
	row := document.Components.Schemas["Mutation"]
	want := "id position topology_id op payload state requested_by requested_at applied_at reason"
	if got := strings.Join(row.Required, " "); got != want || len(row.Properties) != len(row.Required) {
		t.Errorf("a row has %s and %d properties", got, len(row.Properties))
	}
	var list described
	node := document.Paths[basePath+"/topologies/{id}/mutations"]["get"]
	if err := node.Decode(&list); err != nil {
		t.Fatal(err)
	}
	names := make([]string, 0, len(list.Parameters))
	for _, parameter := range list.Parameters {
		names = append(names, parameter["name"].(string)) //nolint:forcetypeassert // a test
	}
	if !slices.Equal(names, []string{"state", "limit", "before"}) {
		t.Errorf("the parameters are %v", names)
	}
}
