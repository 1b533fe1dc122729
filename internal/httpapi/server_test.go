package httpapi

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/manager"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/store"
)

func newServer(t *testing.T, stop func()) *httptest.Server {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	volumes, err := store.OpenVolumes(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := manager.New(manager.Deps{
		Log: slog.New(slog.DiscardHandler), Store: s, Volumes: volumes, RuntimeDir: t.TempDir(), Host: sandbox.Host{MemoryMiB: 1024}, HostArch: sandbox.X8664,
		HoldImages: func(context.Context) (func(), error) { return func() {}, nil },
		ResolveImage: func(context.Context, string, sandbox.Arch) (sandbox.Image, error) {
			return sandbox.Image{Digest: "sha256:0"}, nil
		},
		CreateUpper:  func(context.Context, string, int) error { return nil },
		CreateVolume: func(context.Context, string, int) error { return nil },
		DiskUsed:     func(string) (int64, error) { return 0, nil },
	})
	t.Cleanup(m.Close)
	server := httptest.NewServer(New(Options{
		Log: slog.New(slog.DiscardHandler), Manager: m, Version: "v1.2.3", Stop: stop,
		Host: func(context.Context) apiv1.Host { return apiv1.Host{Engines: []apiv1.EngineInfo{}} },
	}))
	t.Cleanup(server.Close)
	return server
}

func call(t *testing.T, server *httptest.Server, method, path, body string) (int, []byte, http.Header) {
	t.Helper()
	req, err := http.NewRequest(method, server.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var raw json.RawMessage
	if resp.ContentLength != 0 && strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		if err := json.NewDecoder(resp.Body).Decode(&raw); err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
	}
	return resp.StatusCode, raw, resp.Header
}

// Whatever a client sends, an error has one shape, and nothing is a 500.
func TestErrors(t *testing.T) {
	server := newServer(t, func() { t.Error("a bad request stopped the daemon") })
	for _, tc := range []struct {
		method, path, body string
		status             int
		code               apiv1.ErrorCode
		says               string
	}{
		{"GET", "/", "", 404, apiv1.ErrorCodeNotFound, "there is no GET /"},
		{"GET", "/v1/nothing", "", 404, apiv1.ErrorCodeNotFound, "/v1/nothing"},
		{"PATCH", "/v1/sandboxes", "", 404, apiv1.ErrorCodeNotFound, "PATCH"},
		{"GET", "/v1/sandboxes/nobody", "", 404, apiv1.ErrorCodeNotFound, `"nobody"`},
		{"GET", "/v1/sandboxes/..%2f..%2fetc", "", 400, apiv1.ErrorCodeInvalid, "is not a sandbox name"},
		{"GET", "/v1/sandboxes/a%00b", "", 400, apiv1.ErrorCodeInvalid, "is not a sandbox name"},
		{"DELETE", "/v1/sandboxes/nobody?force=perhaps", "", 400, apiv1.ErrorCodeInvalid, "force"},
		{"POST", "/v1/sandboxes/nobody/start", "", 404, apiv1.ErrorCodeNotFound, `"nobody"`},
		{"POST", "/v1/sandboxes/nobody/start?timeout_ms=0", "", 400, apiv1.ErrorCodeInvalid, "timeout_ms 0"},
		{"POST", "/v1/sandboxes/nobody/stop?timeout_ms=-1", "", 400, apiv1.ErrorCodeInvalid, "timeout_ms -1"},
		{"POST", "/v1/sandboxes/nobody/stop?timeout_ms=99999999999999999999", "", 400, apiv1.ErrorCodeInvalid, "timeout_ms"},
		{"GET", "/v1/sandboxes/nobody/logs", "", 404, apiv1.ErrorCodeNotFound, `"nobody"`},
		{"GET", "/v1/sandboxes/nobody/exec", "", 400, apiv1.ErrorCodeInvalid, "WebSocket"},
		{"POST", "/v1/sandboxes", "", 400, apiv1.ErrorCodeInvalid, "request body"},
		{"POST", "/v1/sandboxes", "null", 400, apiv1.ErrorCodeInvalid, "name is empty"},
		{"POST", "/v1/sandboxes", "[]", 400, apiv1.ErrorCodeInvalid, "request body"},
		{"POST", "/v1/sandboxes", `{"name":"a"`, 400, apiv1.ErrorCodeInvalid, "request body"},
		{"POST", "/v1/sandboxes", `{"name":"a"} {}`, 400, apiv1.ErrorCodeInvalid, "request body"},
		{"POST", "/v1/sandboxes", `{"name":"a","colour":"red"}`, 400, apiv1.ErrorCodeInvalid, "colour"},
		{"POST", "/v1/sandboxes", `{"name":"a","vcpus":"two"}`, 400, apiv1.ErrorCodeInvalid, "request body"},
		{"POST", "/v1/sandboxes", `{"name":"a","vcpus":0}`, 400, apiv1.ErrorCodeInvalid, "vcpus 0"},
		{"POST", "/v1/sandboxes", `{"name":"a","vsock_cid":4294967299}`, 400, apiv1.ErrorCodeInvalid, "4294967299"},
		{"POST", "/v1/sandboxes", `{"name":"a","vsock_cid":-3}`, 400, apiv1.ErrorCodeInvalid, "-3"},
		{"POST", "/v1/sandboxes", `{"name":"a","project":"relative"}`, 400, apiv1.ErrorCodeInvalid, "absolute"},
		{"POST", "/v1/sandboxes", `{"name":"a","arch":"vax"}`, 400, apiv1.ErrorCodeInvalid, "vax"},
		{"POST", "/v1/daemon/stop?if_idle=maybe", "", 400, apiv1.ErrorCodeInvalid, "if_idle"},
	} {
		status, raw, _ := call(t, server, tc.method, tc.path, tc.body)
		var e apiv1.Error
		if err := json.Unmarshal(raw, &e); err != nil {
			t.Errorf("%s %s %s: %v", tc.method, tc.path, tc.body, err)
		}
		if status != tc.status || e.Code != tc.code || !strings.Contains(e.Message, tc.says) {
			t.Errorf("%s %s %s: %d %+v; want %d %s %q", tc.method, tc.path, tc.body, status, e, tc.status, tc.code, tc.says)
		}
	}
}

func TestCreateListRemove(t *testing.T) {
	stopped := make(chan struct{})
	server := newServer(t, func() { close(stopped) })
	status, raw, header := call(t, server, "POST", "/v1/sandboxes", `{"name":"a","agent":"codex","vsock_cid":4294967294}`)
	var sb apiv1.Sandbox
	if err := json.Unmarshal(raw, &sb); err != nil || status != http.StatusCreated {
		t.Fatal(status, err, string(raw))
	}
	if sb.State != apiv1.SandboxStateCreated || sb.VsockCid != 4294967294 || sb.MemoryMib != sandbox.DefaultMemoryMiB || *sb.Agent != "codex" || sb.Pid != nil {
		t.Errorf("created: %+v", sb)
	}
	if v := header.Get(VersionHeader); v != "v1.2.3" {
		t.Errorf("version header %q", v)
	}
	status, raw, _ = call(t, server, "POST", "/v1/sandboxes", `{"name":"a"}`)
	if status != http.StatusConflict || !strings.Contains(string(raw), `"exists"`) {
		t.Error(status, string(raw))
	}
	var list apiv1.SandboxList
	_, raw, _ = call(t, server, "GET", "/v1/sandboxes", "")
	if err := json.Unmarshal(raw, &list); err != nil || len(list.Sandboxes) != 1 {
		t.Error(err, string(raw))
	}
	if status, _, _ := call(t, server, "DELETE", "/v1/sandboxes/a", ""); status != http.StatusNoContent {
		t.Error(status)
	}
	if status, _, _ := call(t, server, "POST", "/v1/daemon/stop?if_idle=true", ""); status != http.StatusAccepted {
		t.Error(status)
	}
	<-stopped
}
