package main

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// loadCompose reads docker-compose.yml as `docker compose` does.
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
	}, func(o *loader.Options) { o.SetProjectName("topostream", true) })
}

func secrets(more ...string) types.Mapping {
	m := types.Mapping{"POSTGRES_PASSWORD": "of the database", "TOPOSTREAM_JWT_SECRET": testSecret}
	for _, s := range more {
		name, value, _ := strings.Cut(s, "=")
		m[name] = value
	}
	return m
}

func TestDockerComposeReadsTheFile(t *testing.T) {
	t.Parallel()
	p, err := loadCompose(t, secrets())
	if err != nil {
		t.Fatal(err)
	}
	if names := slices.Sorted(maps.Keys(p.Services)); !slices.Equal(names, []string{"mutator", "postgres", "serve"}) {
		t.Fatalf("the services are %q", names)
	}
	postgres, serve, mutator := p.Services["postgres"], p.Services["serve"], p.Services["mutator"]
	if !slices.Contains(postgres.Command, "wal_level=logical") {
		t.Errorf("PostgreSQL is started as %q", postgres.Command)
	}
	if check := postgres.HealthCheck; check == nil || !slices.Contains(check.Test, "pg_isready") {
		t.Errorf("PostgreSQL's health is asked by %+v", check)
	}
	if len(postgres.Ports) > 0 || len(mutator.Ports) > 0 || len(serve.Ports) != 1 ||
		serve.Ports[0].HostIP != "127.0.0.1" ||
		serve.Ports[0].Published != "8080" {
		t.Errorf("published are %v, %v and %v", postgres.Ports, serve.Ports, mutator.Ports)
	}
	for _, s := range []types.ServiceConfig{serve, mutator} {
		if d := s.DependsOn["postgres"]; d.Condition != types.ServiceConditionHealthy {
			t.Errorf("%s waits for %q", s.Name, d.Condition)
		}
		if s.Image != "topostream" {
			t.Errorf("%s has the image %s", s.Name, s.Image)
		}
	}
	for _, s := range p.Services {
		if s.Restart != types.RestartPolicyUnlessStopped {
			t.Errorf("%s has the restart policy %q", s.Name, s.Restart)
		}
		// What is in a process's arguments shows in everybody's process list.
		for _, arg := range s.Command {
			if strings.Contains(arg, testSecret) || strings.Contains(arg, "of the database") {
				t.Errorf("%s has a secret in its command", s.Name)
			}
		}
	}
	if len(p.Volumes) != 1 || len(postgres.Volumes) != 1 {
		t.Errorf("the volumes are %v", p.Volumes)
	}
}

func TestImagesAndTheAddressOfComposeAreTheUsersToName(t *testing.T) {
	t.Parallel()
	p, err := loadCompose(
		t,
		secrets("POSTGRES_IMAGE=mirror/postgres:16", "TOPOSTREAM_IMAGE=mirror/topostream:1", "GO_IMAGE=mirror/go",
			"BASE_IMAGE=mirror/static", "TOPOSTREAM_PUBLISH=127.0.0.2:9090"),
	)
	if err != nil {
		t.Fatal(err)
	}
	serve := p.Services["serve"]
	args := serve.Build.Args
	for what, got := range map[string]string{
		"mirror/postgres:16":  p.Services["postgres"].Image,
		"mirror/topostream:1": serve.Image,
		"mirror/go":           *args["GO_IMAGE"],
		"mirror/static":       *args["BASE_IMAGE"],
		"127.0.0.2":           serve.Ports[0].HostIP,
		"9090":                serve.Ports[0].Published,
	} {
		if got != what {
			t.Errorf("got %q, want %q", got, what)
		}
	}
}

func TestComposeHasNoDefaultSecrets(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"POSTGRES_PASSWORD", "TOPOSTREAM_JWT_SECRET"} {
		environment := secrets()
		delete(environment, name)
		if _, err := loadCompose(t, environment); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

func TestTheCommandsOfComposeAreOnesThatTheProgramHas(t *testing.T) {
	p, err := loadCompose(t, secrets())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"serve", "mutator"} {
		t.Run(name, func(t *testing.T) {
			for variable, value := range p.Services[name].Environment {
				t.Setenv(variable, *value)
			}
			var c cli
			parser, err := newParser(&c)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parser.Parse(p.Services[name].Command); err != nil {
				t.Error(err)
			}
		})
	}
}
