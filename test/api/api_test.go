// Package api checks the daemon against api/openapi.yaml: schemathesis sends what the document allows and what it does not,
// and looks at every answer. It needs what make ready makes, and the path of schemathesis: scripts/test-api.sh.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/internal/paths"
)

var (
	schemathesis = flag.String("schemathesis", "", "path of schemathesis")
	examples     = flag.String("examples", "20", "how many requests an operation gets of each kind")
)

// streamed is how long an answer that goes on until the client leaves is listened to.
const streamed = 2 * time.Second

func TestDocument(t *testing.T) {
	if *schemathesis == "" {
		t.Skip("no schemathesis is given: scripts/test-api.sh")
	}
	binary, err := filepath.Abs("../../bin/agentkernel")
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := paths.Find(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	if err := os.Symlink(dirs.Data, filepath.Join(home, "data")); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command(binary, args...)
		cmd.Env = append(os.Environ(), "AGENTKERNEL_HOME="+home)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("agentkernel %v: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() {
		cmd := exec.Command("sh", "-c", `"$0" list -q --json | grep -o '"name": *"[^"]*"' | cut -d'"' -f4 | xargs -r "$0" rm --force; "$0" daemon stop`, binary)
		cmd.Env = append(os.Environ(), "AGENTKERNEL_HOME="+home)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("clear up: %v\n%s", err, out)
		}
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(home, "state", "daemon.log"))
			t.Logf("daemon.log:\n%s", log[max(0, len(log)-8000):])
		}
	})
	run("create", "running", "--memory", "128M")
	run("start", "running")
	server := httptest.NewServer(proxy(filepath.Join(home, "run", "daemon.sock")))
	t.Cleanup(server.Close)

	check := func(t *testing.T, config string, args ...string) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "schemathesis.toml"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		document, err := filepath.Abs("../../api/openapi.yaml")
		if err != nil {
			t.Fatal(err)
		}
		args = append([]string{
			"--config-file", filepath.Join(dir, "schemathesis.toml"), "run", document, "--url", server.URL, "--phases", "examples,coverage,fuzzing",
			"--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance",
			"--max-examples", *examples, "--seed", "1", "--generation-database", "none", "--request-timeout", "60", "--continue-on-failure", "--no-color",
			"--exclude-operation-id", "stopDaemon", // would end the test
			// WebSockets have tests of their own.
			"--exclude-operation-id", "exec", "--exclude-operation-id", "attachExec", "--exclude-operation-id", "dial",
			"--exclude-operation-id", "putArchive", // schemathesis makes no tar archives
		}, args...)
		program, err := filepath.Abs(*schemathesis)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, args...)
		cmd.Dir = dir // it keeps what it found where it runs
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("schemathesis: %v", err)
		}
		t.Logf("%s", out[max(0, len(out)-20000):])
	}
	t.Run("a sandbox that runs", func(t *testing.T) {
		check(t, "[parameters]\n\"path.name\" = \"running\"\n", "--exclude-operation-id", "removeSandbox", "--exclude-operation-id", "stopSandbox")
	})
	t.Run("any name", func(t *testing.T) { check(t, "") })
}

// proxy leads from TCP, which is all that schemathesis speaks, to the daemon's socket.
func proxy(socket string) http.Handler {
	p := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "agentkernel"})
	p.FlushInterval = -1
	var d net.Dialer
	p.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) }}
	p.ModifyResponse = func(resp *http.Response) error {
		resp.Body = &limited{ReadCloser: resp.Body, timer: time.AfterFunc(streamed, func() { _ = resp.Body.Close() })}
		return nil
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		var create struct{ Project any }
		if r.Method == http.MethodPost && json.Unmarshal(body, &create) == nil {
			if dir, ok := create.Project.(string); ok {
				if _, err := os.Stat(dir); err == nil { // "/" is a valid project, and a copy of this host
					w.Header().Set("Content-Type", "application/json")
					w.WriteHeader(http.StatusBadRequest)
					_, _ = io.WriteString(w, `{"code":"invalid","message":"no project of this host is copied in a test"}`)
					return
				}
			}
		}
		if query := r.URL.Query(); strings.HasSuffix(r.URL.Path, "/start") { // no deadline that a guest cannot keep
			query.Del("timeout_ms")
			r.URL.RawQuery = query.Encode()
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		p.ServeHTTP(w, r)
	})
}

// limited ends a body that goes on.
type limited struct {
	io.ReadCloser
	timer *time.Timer
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	if err != nil && !l.timer.Stop() {
		err = io.EOF
	}
	return n, err
}
