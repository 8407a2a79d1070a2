package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// loadCompose reads docker-compose.yml as `docker compose --profile watch` does.
func loadCompose(t *testing.T, environment types.Mapping) (*types.Project, error) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  root,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(root, "docker-compose.yml")}},
		Environment: environment,
	}, func(o *loader.Options) { o.SetProjectName("topostream", true) }, loader.WithProfiles([]string{"watch"}))
}

func images(names ...string) types.Mapping {
	m := types.Mapping{}
	for _, s := range names {
		name, value, _ := strings.Cut(s, "=")
		m[name] = value
	}
	return m
}

func TestDockerComposeReadsTheFile(t *testing.T) {
	t.Parallel()
	p, err := loadCompose(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"grafana", "grants", "migrate", "mutator", "nginx", "postgres", "prometheus", "secrets", "serve",
	}
	if names := slices.Sorted(maps.Keys(p.Services)); !slices.Equal(names, want) {
		t.Fatalf("the services are %q", names)
	}
	postgres, serve, mutator, nginx := p.Services["postgres"], p.Services["serve"], p.Services["mutator"],
		p.Services["nginx"]
	if !slices.Contains(postgres.Command, "wal_level=logical") {
		t.Errorf("PostgreSQL is started as %q", postgres.Command)
	}
	if check := mutator.HealthCheck; check == nil || check.Disable {
		t.Error("nobody asks how the worker is")
	}
	if check := postgres.HealthCheck; check == nil || !slices.Contains(check.Test, "pg_isready") {
		t.Errorf("PostgreSQL's health is asked by %+v", check)
	}
	for _, s := range p.Services {
		checkService(t, s)
	}
	if nginx.Ports[0].Published != "8080" {
		t.Errorf("published is %v", nginx.Ports)
	}
	for _, s := range []types.ServiceConfig{serve, mutator} {
		if d := s.DependsOn["grants"]; d.Condition != types.ServiceConditionCompletedSuccessfully {
			t.Errorf("%s waits for %q", s.Name, d.Condition)
		}
		if s.Image != "topostream" {
			t.Errorf("%s has the image %s", s.Name, s.Image)
		}
	}
	if serve.Deploy == nil || serve.Deploy.Replicas == nil || *serve.Deploy.Replicas != 2 {
		t.Errorf("serve is deployed as %+v: one server that ends would be an outage", serve.Deploy)
	}
}

func checkService(t *testing.T, s types.ServiceConfig) {
	t.Helper()
	watches := s.Name == "prometheus" || s.Name == "grafana"
	if asked := slices.Equal(s.Profiles, []string{"watch"}); asked != watches {
		t.Errorf("%s has the profiles %q", s.Name, s.Profiles)
	}
	if published := len(s.Ports) > 0; published != (s.Name == "nginx" || watches) {
		t.Errorf("%s publishes %v", s.Name, s.Ports)
	}
	for _, port := range s.Ports {
		if port.HostIP != "127.0.0.1" {
			t.Errorf("%s is open to others: %v", s.Name, port)
		}
	}
	if s.Name != "postgres" && // whose image begins as root and becomes another user
		(!slices.Contains(s.CapDrop, "ALL") || !slices.Contains(s.SecurityOpt, "no-new-privileges:true")) {
		t.Errorf("%s may more than it needs", s.Name)
	}
	once := slices.Contains([]string{"secrets", "migrate", "grants"}, s.Name)
	if !once && s.Restart != types.RestartPolicyUnlessStopped {
		t.Errorf("%s has the restart policy %q", s.Name, s.Restart)
	}
	if s.MemLimit == 0 {
		t.Errorf("%s has no limit of memory", s.Name)
	}
	if watches || s.Name == "serve" || s.Name == "mutator" { // written in Go, and it stays
		// Two thirds of the limit, to the MiB: the rest is what Go does not count.
		want := fmt.Sprintf("%dMiB", s.MemLimit*2/3>>20)
		if limit := s.Environment["GOMEMLIMIT"]; limit == nil || *limit != want {
			t.Errorf("%s has not the GOMEMLIMIT %s", s.Name, want)
		}
	}
	for variable := range s.Environment { // what an environment holds shows in `docker inspect`
		if strings.Contains(variable, "PASSWORD") && !strings.HasSuffix(variable, "_FILE") {
			t.Errorf("%s has %s in its environment", s.Name, variable)
		}
	}
}

func TestImagesAndTheAddressOfComposeAreTheUsersToName(t *testing.T) {
	t.Parallel()
	p, err := loadCompose(
		t,
		images("POSTGRES_IMAGE=mirror/postgres:16", "TOPOSTREAM_IMAGE=mirror/topostream:1", "GO_IMAGE=mirror/go",
			"BASE_IMAGE=mirror/static", "NGINX_IMAGE=mirror/nginx", "TOPOSTREAM_PUBLISH=127.0.0.2:9090"),
	)
	if err != nil {
		t.Fatal(err)
	}
	args, port := p.Services["migrate"].Build.Args, p.Services["nginx"].Ports[0]
	for what, got := range map[string]string{
		"mirror/postgres:16":  p.Services["postgres"].Image,
		"mirror/topostream:1": p.Services["serve"].Image,
		"mirror/go":           *args["GO_IMAGE"],
		"mirror/static":       *args["BASE_IMAGE"],
		"mirror/nginx":        p.Services["nginx"].Image,
		"127.0.0.2":           port.HostIP,
		"9090":                port.Published,
	} {
		if got != what {
			t.Errorf("got %q, want %q", got, what)
		}
	}
}

// Each sees its own secrets alone.
func TestInComposeNobodyMountsTheSecretsOfAnother(t *testing.T) {
	t.Parallel()
	p, err := loadCompose(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	may := map[string][]string{
		"secrets":  {"secrets-owner", "secrets-postgres", "secrets-server", "secrets-worker"},
		"postgres": {"secrets-postgres"}, "migrate": {"secrets-owner"}, "grants": {"secrets-owner"},
		"serve": {"secrets-server"}, "mutator": {"secrets-worker"}, // the others none
	}
	for name, s := range p.Services {
		var mounted []string
		for _, volume := range s.Volumes {
			if strings.HasPrefix(volume.Source, "secrets-") {
				mounted = append(mounted, volume.Source)
				if !volume.ReadOnly && name != "secrets" {
					t.Errorf("%s may write to %s", name, volume.Source)
				}
			}
		}
		if slices.Sort(mounted); !slices.Equal(mounted, may[name]) {
			t.Errorf("%s mounts %q, want %q", name, mounted, may[name])
		}
	}
}

func TestTheCommandsOfComposeAreOnesThatTheProgramHas(t *testing.T) {
	p, err := loadCompose(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	checks := map[string][]string{
		"serve": healthCheckOf(t, "Dockerfile"), "mutator": p.Services["mutator"].HealthCheck.Test,
	}
	for _, name := range []string{"migrate", "serve", "mutator"} {
		t.Run(name, func(t *testing.T) {
			for variable, value := range p.Services[name].Environment {
				t.Setenv(variable, *value)
			}
			parsed := func(command []string) (c cli) {
				t.Helper()
				parser, err := newParser(&c)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := parser.Parse(command); err != nil {
					t.Error(err)
				}
				return c
			}
			asked := parsed(p.Services[name].Command)
			if check := checks[name]; check != nil {
				asks(t, parsed(check[2:]).Health, map[string]string{
					"serve": asked.Serve.Addr, "mutator": asked.Mutator.MetricsAddr,
				}[name])
			}
		})
	}
	if ours, released := checks["serve"], healthCheckOf(t, "deploy/Dockerfile.release"); !slices.Equal(ours, released) {
		t.Errorf("a release's image is asked by %q, ours by %q", released, ours)
	}
}

// asks holds a health check to where the program serves. It must leave the database out: who restarts what is unhealthy
// would end all streams when that is away.
func asks(t *testing.T, check healthCmd, serves string) {
	t.Helper()
	address, _, err := check.server()
	if err != nil || address != "http://"+reachable(serves)+"/readyz" || check.Exclude != "database" {
		t.Errorf("%s is asked at %s, without %q: %v", serves, address, check.Exclude, err)
	}
}

// healthCheckOf is an image's, as Docker has it: CMD and the command.
func healthCheckOf(t *testing.T, file string) (check []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", file))
	if err != nil {
		t.Fatal(err)
	}
	_, command, ok := strings.Cut(string(text), "\nHEALTHCHECK ")
	_, command, inJSON := strings.Cut(command, " CMD ")
	command, _, _ = strings.Cut(command, "\n")
	if err := json.Unmarshal([]byte(command), &check); err != nil || !ok || !inJSON {
		t.Fatalf("%s has no health check in JSON: %v", file, err)
	}
	return append([]string{"CMD"}, check...)
}
