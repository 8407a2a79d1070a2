// Package deploy holds what runs topostream elsewhere: proxies, units, manifests, rules. Its tests read each file as
// its own program does.
package deploy_test

import (
	"bytes"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// manifests are what `kubectl apply -k deploy/kubernetes` sends, by kind and name.
func manifests(t *testing.T) map[string]any {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), "kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	text, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]any{}
	for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
		var of struct {
			Kind     string
			Metadata struct{ Name string }
		}
		if err := yaml.Unmarshal(document, &of); err != nil {
			t.Fatal(err)
		}
		into := map[string]any{
			"Deployment": &apps.Deployment{}, "Job": &batch.Job{}, "Service": &core.Service{},
			"PodDisruptionBudget": &policy.PodDisruptionBudget{}, "Namespace": &core.Namespace{},
		}[of.Kind]
		if into == nil {
			t.Fatalf("nobody has checked a %s", of.Kind)
		}
		if err := yaml.UnmarshalStrict(document, into); err != nil { // a name that is misspelt is an error
			t.Errorf("%s %s: %v", of.Kind, of.Metadata.Name, err)
		}
		all[of.Kind+"/"+of.Metadata.Name] = into
	}
	return all
}

func TestKubernetesReadsTheManifests(t *testing.T) {
	t.Parallel()
	all := manifests(t)
	serve, ok := all["Deployment/topostream-serve"].(*apps.Deployment)
	if !ok {
		t.Fatal("no deployment of serve")
	}
	mutator, ok := all["Deployment/topostream-mutator"].(*apps.Deployment)
	if !ok {
		t.Fatal("no deployment of the worker")
	}
	job, ok := all["Job/topostream-migrate"].(*batch.Job)
	if !ok {
		t.Fatal("no job that migrates")
	}
	if all["Namespace/"+job.Namespace] == nil {
		t.Errorf("nobody makes the namespace %s", job.Namespace)
	}
	if job.Labels["app.kubernetes.io/component"] != "migrate" {
		t.Error("the schema cannot be applied before the servers")
	}
	for name, pod := range map[string]core.PodTemplateSpec{
		"serve": serve.Spec.Template, "mutator": mutator.Spec.Template, "migrate": job.Spec.Template,
	} {
		checkPod(t, name, pod)
	}
	container := serve.Spec.Template.Spec.Containers[0]
	if ready := container.ReadinessProbe; ready == nil || ready.HTTPGet.Path != "/readyz?exclude=database" {
		t.Error("a database that is away would take all servers out, and browsers give up after the ingress's 503")
	}
	for _, probe := range []*core.Probe{container.LivenessProbe, mutator.Spec.Template.Spec.Containers[0].LivenessProbe} {
		if probe == nil || probe.HTTPGet.Path != "/livez" {
			t.Error("a restart mends no database that is away")
		}
	}
	// Until nobody sends clients here, then --drain.
	grace := *serve.Spec.Template.Spec.TerminationGracePeriodSeconds
	if sleep := container.Lifecycle.PreStop.Sleep.Seconds; grace < sleep+10+5 {
		t.Errorf("%d s are too short for %d s and a drain of 10 s", grace, sleep)
	}
	service, ok := all["Service/topostream"].(*core.Service)
	if !ok || !selects(service.Spec.Selector, serve.Spec.Template.Labels) {
		t.Errorf("the service %+v selects no server", service)
	}
	for name, of := range map[string]*apps.Deployment{"topostream-serve": serve, "topostream-mutator": mutator} {
		spread := of.Spec.Template.Spec.TopologySpreadConstraints
		if len(spread) != 1 || spread[0].LabelSelector == nil ||
			!selects(spread[0].LabelSelector.MatchLabels, of.Spec.Template.Labels) {
			t.Errorf("all pods of %s may be on one node: %+v", name, spread)
		}
		budget, ok := all["PodDisruptionBudget/"+name].(*policy.PodDisruptionBudget)
		if !ok || budget.Spec.Selector == nil || !selects(budget.Spec.Selector.MatchLabels, of.Spec.Template.Labels) {
			t.Errorf("the budget of %s selects nothing", name)
		}
	}
}

func checkPod(t *testing.T, name string, pod core.PodTemplateSpec) {
	t.Helper()
	for _, container := range pod.Spec.Containers {
		may := container.SecurityContext
		if may == nil || may.ReadOnlyRootFilesystem == nil || !*may.ReadOnlyRootFilesystem ||
			may.AllowPrivilegeEscalation == nil || *may.AllowPrivilegeEscalation || len(may.Capabilities.Drop) != 1 {
			t.Errorf("%s may more than it needs", name)
		}
		if container.Resources.Limits.Memory().IsZero() {
			t.Errorf("%s has no limit of memory", name)
		}
		if !strings.HasPrefix(container.Image, "topostream:") || strings.HasSuffix(container.Image, ":latest") {
			t.Errorf("%s runs %s, which is no version", name, container.Image)
		}
		for _, argument := range container.Args {
			if strings.Contains(argument, "postgres://") {
				t.Errorf("%s has its database's URL in the process list", name)
			}
		}
	}
	if as := pod.Spec.SecurityContext; as == nil || as.RunAsNonRoot == nil || !*as.RunAsNonRoot {
		t.Errorf("%s runs as root", name)
	}
}

func selects(selector, labels map[string]string) bool {
	for name, value := range selector {
		if labels[name] != value {
			return false
		}
	}
	return len(selector) > 0
}

func TestTheExampleOfASecretHasWhatTheManifestsAskFor(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("kubernetes", "secret.example.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var secret core.Secret
	if err := yaml.UnmarshalStrict(text, &secret); err != nil {
		t.Fatal(err)
	}
	for name, of := range manifests(t) {
		var pod core.PodTemplateSpec
		switch of := of.(type) {
		case *apps.Deployment:
			pod = of.Spec.Template
		case *batch.Job:
			pod = of.Spec.Template
		}
		for _, container := range pod.Spec.Containers {
			for _, env := range container.Env {
				if env.ValueFrom == nil {
					continue
				}
				key := env.ValueFrom.SecretKeyRef.Key
				database, err := url.Parse(secret.StringData[key])
				if err != nil || database.User == nil {
					t.Errorf("%s asks for %s, which is no URL in the example", name, key)
				} else if _, ok := database.User.Password(); !ok {
					t.Errorf("%s cannot connect: %s has no password in the example", name, key)
				}
			}
		}
	}
}

// The programs of one machine have no address in common, and each the database's role that its grants are for.
func TestUnderSystemdEachProgramHasItsAddressesAndItsRole(t *testing.T) {
	t.Parallel()
	addresses := map[string]string{}
	for program, role := range map[string]string{"serve": "topostream_server", "mutator": "topostream_worker"} {
		set := environment(t, program)
		database, err := url.Parse(set["TOPOSTREAM_DATABASE_URL"])
		if err != nil || database.User.Username() != role {
			t.Errorf("%s has the database %s, want the role %s: %v", program, database, role, err)
		}
		names := []string{"TOPOSTREAM_METRICS_ADDR"}
		if program == "serve" {
			names = append(names, "TOPOSTREAM_ADDR")
		}
		for _, name := range names {
			address := set[name]
			if other := addresses[address]; address == "" || other != "" {
				t.Errorf("%s of %s is %q, as of %q", name, program, address, other)
			}
			addresses[address] = program
		}
	}
}

// environment is what systemd gives a program: the later of two files wins (systemd.exec(5), EnvironmentFile=).
func environment(t *testing.T, program string) map[string]string {
	t.Helper()
	packaged, err := os.ReadFile(filepath.Join("..", ".goreleaser.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	set := map[string]string{}
	for _, file := range assignments(t, "topostream-"+program+".service")["EnvironmentFile"] {
		file = strings.TrimPrefix(file, "-") // it may be missing
		name, ok := strings.CutPrefix(file, "/etc/topostream/")
		if !ok || !bytes.Contains(packaged, []byte("dst: "+file+"\n")) {
			t.Fatalf("the package has no %s", file)
		}
		for name, v := range assignments(t, name) {
			set[name] = v[len(v)-1]
		}
	}
	return set
}

// assignments are the lines NAME=VALUE of a file of systemd's, by name.
func assignments(t *testing.T, file string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("systemd", file))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			all[name] = append(all[name], value)
		}
	}
	return all
}

// dpkg does not bring back a file of settings that was removed, and an upgrade goes on without it.
func TestAnUpgradeNeedsNoFileOfSettingsThatWasRemoved(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile(filepath.Join("systemd", "postinstall.sh"))
	if err != nil {
		t.Fatal(err)
	}
	etc := t.TempDir()
	kept := filepath.Join(etc, "topostream.env")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer("/etc/topostream", etc, "chgrp topostream ", "chgrp "+strconv.Itoa(os.Getgid())+" ")
	var lines strings.Builder
	for line := range strings.Lines(string(script)) {
		if !strings.Contains(line, "systemd") { // it has no user topostream here, and nothing to reload
			lines.WriteString(here.Replace(line))
		}
	}
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", lines.String()).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if made, err := os.Stat(etc); err != nil || made.Mode().Perm() != 0o750 {
		t.Errorf("it has not come to its end: %v %v", made, err)
	}
	optional := assignments(t, "topostream-mutator.service")["EnvironmentFile"]
	if !slices.Contains(optional, "-/etc/topostream/topostream-mutator.env") {
		t.Errorf("the worker does not start without it: %v", optional)
	}
}

// A service whose binary is gone would run until it is restarted, and then fail at every boot.
func TestARemovedPackageStopsItsServicesAndAnUpgradeDoesNot(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile(filepath.Join("systemd", "preremove.sh"))
	if err != nil {
		t.Fatal(err)
	}
	booted := t.TempDir() // as /run/systemd/system
	// It says what it is asked, and fails: the package is removed all the same.
	systemctl := filepath.Join(booted, "systemctl")
	if err := os.WriteFile(systemctl, []byte("#!/bin/sh\necho \"$@\"\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer("/run/systemd/system", booted, "systemctl ", systemctl+" ").Replace(string(script))
	for action, want := range map[string]string{
		"remove": "disable --now topostream-serve topostream-mutator\n", "upgrade": "", "failed-upgrade": "",
	} {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", here, "preremove", action).CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("%s: %q %v, want %q", action, out, err, want)
		}
	}
}

// systemd grades units: 0 is a program that may do nothing, 10 one that may do everything.
func TestTheUnitsAreHardened(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze on this machine: install systemd")
	}
	units, err := filepath.Glob("systemd/*.service")
	if err != nil || len(units) != 2 {
		t.Fatal(units, err)
	}
	for _, unit := range units {
		const most = "15" // 1.5
		out, err := exec.CommandContext(t.Context(), analyze, "security", "--offline=yes", "--no-pager",
			"--threshold="+most, unit).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", unit, err, out)
		}
		t.Logf("%s", bytes.TrimSpace(out[bytes.LastIndex(out, []byte("→")):]))
	}
}

func TestPrometheusReadsItsConfiguration(t *testing.T) {
	t.Parallel()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("no promtool on this machine: it is in Debian's package prometheus")
	}
	rules, err := filepath.Abs(filepath.Join("prometheus", "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer(
		"/etc/prometheus/alerts.yaml", rules, // as docker-compose.yml mounts it
		// Debian's promtool knows no Kubernetes: what finds the pods is not checked.
		"kubernetes_sd_configs", "dns_sd_configs", "{role: pod, namespaces: {names: [topostream]}}", "{names: [pods]}",
	)
	for _, name := range []string{"prometheus.yaml", "kubernetes.yaml"} {
		config, err := os.ReadFile(filepath.Join("prometheus", name))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(here.Replace(string(config))), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), promtool, "check", "config", path).CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("rules found")) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		for _, job := range []string{"topostream", "topostream-mutator"} { // by which alerts and dashboard find up
			if !bytes.Contains(config, []byte("job_name: "+job+"\n")) {
				t.Errorf("%s has no job %s", name, job)
			}
		}
	}
}
