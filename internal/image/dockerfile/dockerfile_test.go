package dockerfile

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fake puts a builder into PATH that writes down how it was called.
func fake(t *testing.T, name, script string) (log string) {
	t.Helper()
	dir := t.TempDir()
	log = filepath.Join(dir, "log")
	text := "#!/bin/sh\necho \"$*\" >>" + log + "\n" + script
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	return log
}

func TestBuild(t *testing.T) {
	for name, want := range map[string]string{
		"docker":   "version --format {{.Server.Version}}|build --platform linux/arm64 --iidfile DIR/id -f /c/D --build-arg A=b c /c|save -o DIR/image.tar sha256:1",
		"podman":   "build --platform linux/arm64 --iidfile DIR/id -f /c/D --build-arg A=b c /c|save --format oci-archive -o DIR/image.tar sha256:1",
		"buildah":  "build --platform linux/arm64 --iidfile DIR/id -f /c/D --build-arg A=b c /c|push sha256:1 oci-archive:DIR/image.tar",
		"buildctl": "debug workers|build --frontend dockerfile.v0 --local context=/c --local dockerfile=/c --opt filename=D --opt platform=linux/arm64 --output type=oci,dest=DIR/image.tar --opt build-arg:A=b c",
	} {
		t.Run(name, func(t *testing.T) {
			log := fake(t, name, "echo building; case $1 in build) [ $2 = --platform ] && echo sha256:1 >$5;; esac; exit 0")
			b, err := Find(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			var out bytes.Buffer
			archive, err := b.Build(t.Context(), Options{Context: "/c", Dockerfile: "/c/D", Args: []string{"A=b c"}, Arch: "arm64", Dir: dir, Output: &out})
			if err != nil || archive != filepath.Join(dir, "image.tar") || !strings.Contains(out.String(), "building") {
				t.Errorf("%s, %v, %q", archive, err, out.String())
			}
			data, _ := os.ReadFile(log)
			got := strings.ReplaceAll(strings.TrimSpace(strings.ReplaceAll(string(data), "\n", "|")), dir, "DIR")
			if strings.TrimSuffix(got, "|") != want {
				t.Errorf("called\n%s, want\n%s", got, want)
			}
		})
	}
}

func TestFindErrors(t *testing.T) {
	fake(t, "docker", "echo 'Cannot connect to the Docker daemon'; exit 1")
	t.Setenv("PATH", strings.Split(os.Getenv("PATH"), ":")[0])
	_, err := Find(t.Context(), "")
	for _, want := range []string{"buildctl: not installed", "docker: its server does not answer", "Cannot connect", "buildah: not installed"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
	if _, err := Find(t.Context(), "kaniko"); err == nil || !strings.Contains(err.Error(), "unknown builder") {
		t.Error(err)
	}
}

func TestArguments(t *testing.T) {
	environ := func(name string) (string, bool) { return "value", name == "SET" }
	got, err := Arguments([]string{"A=1=2", "SET", "UNSET", "EMPTY="}, environ)
	if err != nil || strings.Join(got, " ") != "A=1=2 SET=value EMPTY=" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := Arguments([]string{"=x"}, environ); err == nil {
		t.Error("no name: no error")
	}
}
