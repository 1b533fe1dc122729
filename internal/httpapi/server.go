// Package httpapi serves the API of api/openapi.yaml: it turns requests into calls of the manager and its errors into
// responses of one shape.
package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/manager"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// maxBody bounds a request's JSON body, in bytes.
const maxBody = 1 << 20

// VersionHeader carries the daemon's version in every response.
const VersionHeader = "Agentkernel-Version"

// Options of a Handler.
type Options struct {
	Log     *slog.Logger
	Manager *manager.Manager
	Version string
	Host    func(context.Context) apiv1.Host
	Stop    func() // called once when a client asks the daemon to end
}

// handler implements apiv1.ServerInterface.
type handler struct {
	Options
	started time.Time
	active  atomic.Int64 // requests under way
}

// New returns the API.
func New(o Options) http.Handler {
	h := &handler{Options: o, started: time.Now().UTC()}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.fail(w, r, sandbox.Errorf(sandbox.NotFound, "see api/openapi.yaml", "there is no %s %s", r.Method, r.URL.Path))
	})
	api := apiv1.HandlerWithOptions(h, apiv1.StdHTTPServerOptions{
		BaseRouter: mux,
		ErrorHandlerFunc: func(w http.ResponseWriter, r *http.Request, err error) {
			h.fail(w, r, sandbox.Errorf(sandbox.Invalid, "see api/openapi.yaml", "%w", err))
		},
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.active.Add(1)
		defer h.active.Add(-1)
		w.Header().Set(VersionHeader, o.Version)
		api.ServeHTTP(w, r)
	})
}

func (h *handler) GetVersion(w http.ResponseWriter, r *http.Request) {
	h.reply(w, r, http.StatusOK, apiv1.Version{Version: h.Version, Pid: os.Getpid(), StartedAt: h.started})
}

func (h *handler) GetHost(w http.ResponseWriter, r *http.Request) {
	h.reply(w, r, http.StatusOK, h.Host(r.Context()))
}

func (h *handler) StopDaemon(w http.ResponseWriter, r *http.Request, params apiv1.StopDaemonParams) {
	if n := h.active.Load(); deref(params.IfIdle) && n > 1 {
		h.fail(w, r, sandbox.Errorf(sandbox.Conflict, "try again later", "the daemon has %d requests under way", n-1))
		return
	}
	w.WriteHeader(http.StatusAccepted)
	h.Stop()
}

func (h *handler) ListSandboxes(w http.ResponseWriter, r *http.Request) {
	records, problems := h.Manager.List()
	list := apiv1.SandboxList{Sandboxes: make([]apiv1.Sandbox, 0, len(records)), Problems: optional(problems)}
	for _, rec := range records {
		list.Sandboxes = append(list.Sandboxes, view(rec))
	}
	h.reply(w, r, http.StatusOK, list)
}

func (h *handler) CreateSandbox(w http.ResponseWriter, r *http.Request) {
	var req apiv1.CreateRequest
	if err := decode(io.LimitReader(r.Body, maxBody), &req); err != nil {
		h.fail(w, r, err)
		return
	}
	cid := or(req.VsockCid, 0)
	if cid < 0 || cid > sandbox.MaxVsockCID {
		h.fail(w, r, sandbox.Errorf(sandbox.Invalid, fmt.Sprintf("use %d to %d", sandbox.MinVsockCID, uint32(sandbox.MaxVsockCID)), "vsock CID %d cannot be used", cid))
		return
	}
	spec := sandbox.Spec{
		Name: req.Name, Arch: sandbox.Arch(or(req.Arch, "")), Image: or(req.Image, sandbox.DefaultImage), Agent: or(req.Agent, ""),
		VCPUs: or(req.Vcpus, sandbox.DefaultVCPUs), MemoryMiB: or(req.MemoryMib, sandbox.DefaultMemoryMiB),
		DiskMiB: or(req.DiskMib, sandbox.DefaultDiskMiB), VsockCID: uint32(cid), Project: or(req.Project, ""), Engine: string(or(req.Engine, "")),
		IdleTimeoutMs: or(req.IdleTimeoutMs, 0), IdleAction: string(or(req.IdleAction, "")),
		Publish: ports(req.Publish),
		Volumes: volumeMounts(req.Volumes),
	}
	create := h.Manager.Create
	if req.FromSnapshot != nil {
		create = func(context.Context, sandbox.Spec) (sandbox.Record, error) { return h.createFrom(r, req, spec) }
	}
	rec, err := create(r.Context(), spec)
	h.sandbox(w, r, http.StatusCreated, rec, err)
}

func (h *handler) GetSandbox(w http.ResponseWriter, r *http.Request, name apiv1.Name) {
	rec, err := h.Manager.Get(name)
	h.sandbox(w, r, http.StatusOK, rec, err)
}

func (h *handler) RemoveSandbox(w http.ResponseWriter, r *http.Request, name apiv1.Name, params apiv1.RemoveSandboxParams) {
	if err := h.Manager.Remove(r.Context(), name, deref(params.Force)); err != nil {
		h.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h *handler) StartSandbox(w http.ResponseWriter, r *http.Request, name apiv1.Name, params apiv1.StartSandboxParams) {
	timeout, err := milliseconds(params.TimeoutMs, 120_000, 1)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	rec, err := h.Manager.Start(r.Context(), name, manager.StartOptions{Timeout: timeout, CountInstructions: deref(params.CountInstructions), Cold: deref(params.Cold)})
	h.sandbox(w, r, http.StatusOK, rec, err)
}

func (h *handler) StopSandbox(w http.ResponseWriter, r *http.Request, name apiv1.Name, params apiv1.StopSandboxParams) {
	grace, err := milliseconds(params.TimeoutMs, 10_000, 0)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	rec, err := h.Manager.Stop(r.Context(), name, grace)
	h.sandbox(w, r, http.StatusOK, rec, err)
}

func (h *handler) GetLogs(w http.ResponseWriter, r *http.Request, name apiv1.Name) {
	path, err := h.Manager.ConsoleLog(name)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return // nothing has been written yet
	}
	if err != nil {
		h.fail(w, r, fmt.Errorf("open the console log: %w", err))
		return
	}
	defer f.Close()
	if _, err := io.Copy(w, f); err != nil {
		h.Log.Debug("send a console log", "sandbox", name, "err", err)
	}
}

// milliseconds reads timeout_ms.
func milliseconds(value *int, otherwise, least int) (time.Duration, error) {
	ms := or(value, otherwise)
	if ms < least || ms > 3_600_000 {
		return 0, sandbox.Errorf(sandbox.Invalid, fmt.Sprintf("use %d to 3600000", least), "timeout_ms %d is out of range", ms)
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// decode reads one JSON value, of a body whose length is bounded, with no unknown fields, and nothing after it.
func decode(body io.Reader, v any) error {
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	if err == nil && dec.More() {
		err = errors.New("there is more after the JSON value")
	}
	if err != nil {
		return sandbox.Errorf(sandbox.Invalid, "see api/openapi.yaml", "the request body is not what it should be: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

func (h *handler) sandbox(w http.ResponseWriter, r *http.Request, status int, rec sandbox.Record, err error) {
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.reply(w, r, status, view(rec))
}

// reply sends v. Its length goes ahead of it: a client that is answered before it has sent everything has all of the answer
// then, and need not see the end of the handler, which waits for that client (drain).
func (h *handler) reply(w http.ResponseWriter, r *http.Request, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		h.Log.Error("encode a response", "path", r.URL.Path, "err", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	body = append(body, '\n')
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		h.Log.Debug("send a response", "path", r.URL.Path, "err", err)
	}
}

func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	body := Error(err)
	if body.Code == apiv1.ErrorCodeInternal {
		h.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	h.reply(w, r, statusOf[body.Code], body)
}

var statusOf = map[apiv1.ErrorCode]int{
	apiv1.ErrorCodeInvalid: http.StatusBadRequest, apiv1.ErrorCodeNotFound: http.StatusNotFound, apiv1.ErrorCodeExists: http.StatusConflict,
	apiv1.ErrorCodeConflict: http.StatusConflict, apiv1.ErrorCodeUnavailable: http.StatusServiceUnavailable,
	apiv1.ErrorCodeFailed: http.StatusInternalServerError, apiv1.ErrorCodeInternal: http.StatusInternalServerError,
}
