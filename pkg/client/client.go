// Package client is the Go SDK of agentkernel: sandboxes of one daemon, over its unix socket.
//
//	c := client.New(socket) // $XDG_RUNTIME_DIR/agentkernel/daemon.sock
//	sb, err := c.Create(ctx, client.CreateRequest{Name: "my-project"})
//	sb, err = c.Start(ctx, "my-project", client.StartOptions{})
//	exit, err := c.Exec(ctx, "my-project", client.ExecStart{Argv: []string{"uname", "-a"}}, client.ExecIO{Stdout: os.Stdout})
//	err = c.Remove(ctx, "my-project", true)
//
// Errors of the daemon are of type *Error; errors that are not mean that there is no daemon, or that it went away.
package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/unixsock"
)

// The types of the API, described in api/openapi.yaml.
type (
	// Sandbox is all that the daemon says of one.
	Sandbox = apiv1.Sandbox
	// SandboxList is all sandboxes, and what of them could not be read.
	SandboxList = apiv1.SandboxList
	// CreateRequest says what to make.
	CreateRequest = apiv1.CreateRequest
	// Version of a daemon.
	Version = apiv1.Version
	// Host is what a daemon's host can do.
	Host = apiv1.Host
	// ExecStart is a command to run.
	ExecStart = apiv1.ExecStart
	// Hygiene says what a sandbox has for its own.
	Hygiene = apiv1.Hygiene
	// Stage is a part of a start and how long it took.
	Stage = apiv1.Stage
)

// Error is an error that the daemon has answered with.
type Error struct {
	Code    apiv1.ErrorCode
	Message string
	Hint    string // what to do next; may be empty
}

func (e *Error) Error() string { return e.Message }

// Client talks to one daemon. It may be used from several goroutines.
type Client struct {
	// Renew, when it is set, is called before a command runs when no daemon answers, or one of another version than Expect.
	// It may start or replace the daemon; the command is then sent to the one that answers, whatever its version. So a
	// command costs one request in the usual case. Set both before the first call.
	Renew  func(ctx context.Context) error
	Expect string

	api  *apiv1.Client
	http *http.Client
}

const baseURL = "http://agentkernel"

// New returns a client of the daemon at a unix socket. Nothing is sent before the first call.
func New(socket string) *Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return unixsock.Dial(ctx, socket) },
		// The daemon is on this machine: proxies of the environment are not for it.
		Proxy: nil,
	}
	httpClient := &http.Client{Transport: transport}
	api, err := apiv1.NewClient(baseURL, apiv1.WithHTTPClient(httpClient))
	if err != nil {
		panic(err) // only for a URL that does not parse, and it is a constant
	}
	return &Client{api: api, http: httpClient}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Version says which daemon answers.
func (c *Client) Version(ctx context.Context) (v Version, err error) {
	resp, err := c.api.GetVersion(ctx)
	return v, result(resp, err, &v)
}

// Host says what the daemon's host can do.
func (c *Client) Host(ctx context.Context) (h Host, err error) {
	resp, err := c.api.GetHost(ctx)
	return h, result(resp, err, &h)
}

// StopDaemon ends the daemon; sandboxes go on running. With ifIdle it is refused while requests are under way.
func (c *Client) StopDaemon(ctx context.Context, ifIdle bool) error {
	resp, err := c.api.StopDaemon(ctx, &apiv1.StopDaemonParams{IfIdle: &ifIdle})
	return result(resp, err, nil)
}

// List returns all sandboxes by name.
func (c *Client) List(ctx context.Context) (l SandboxList, err error) {
	resp, err := c.api.ListSandboxes(ctx)
	return l, result(resp, err, &l)
}

// Get returns one sandbox.
func (c *Client) Get(ctx context.Context, name string) (s Sandbox, err error) {
	resp, err := c.api.GetSandbox(ctx, name)
	return s, result(resp, err, &s)
}

// Create makes a sandbox; nothing runs yet.
func (c *Client) Create(ctx context.Context, req CreateRequest) (s Sandbox, err error) {
	resp, err := c.api.CreateSandbox(ctx, req)
	return s, result(resp, err, &s)
}

// StartOptions of a start.
type StartOptions struct {
	Timeout           time.Duration // for the guest agent to answer; 0: the daemon's default, 2 minutes
	Cold              bool          // boot, and give up memory that was saved
	CountInstructions bool          // guest instructions to readiness, on software emulation
}

// Start boots the microVM, or has it go on from what was saved, and returns when its guest agent answers. When ctx ends first, the microVM is killed.
func (c *Client) Start(ctx context.Context, name string, o StartOptions) (s Sandbox, err error) {
	params := &apiv1.StartSandboxParams{}
	if o.Timeout != 0 {
		params.TimeoutMs = ptr(int(o.Timeout.Milliseconds()))
	}
	if o.Cold {
		params.Cold = &o.Cold
	}
	if o.CountInstructions {
		params.CountInstructions = &o.CountInstructions
	}
	resp, err := c.api.StartSandbox(ctx, name, params)
	return s, result(resp, err, &s)
}

// Stop shuts the microVM down. grace is what processes get between SIGTERM and SIGKILL; 0 kills the VMM at once.
func (c *Client) Stop(ctx context.Context, name string, grace time.Duration) (s Sandbox, err error) {
	resp, err := c.api.StopSandbox(ctx, name, &apiv1.StopSandboxParams{TimeoutMs: ptr(int(grace.Milliseconds()))})
	return s, result(resp, err, &s)
}

// Remove deletes a sandbox with its disks; force kills a running microVM first.
func (c *Client) Remove(ctx context.Context, name string, force bool) error {
	resp, err := c.api.RemoveSandbox(ctx, name, &apiv1.RemoveSandboxParams{Force: &force})
	return result(resp, err, nil)
}

// Logs writes the console output of a sandbox to w. It is what the guest wrote: it may contain anything.
func (c *Client) Logs(ctx context.Context, name string, w io.Writer) error {
	resp, err := c.api.GetLogs(ctx, name)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return failure(resp)
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("copy the console log: %w", err)
	}
	return nil
}

// result decodes a response into v, or into an *Error.
func result(resp *http.Response, err error, v any) error {
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return failure(resp)
	}
	if v == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		return fmt.Errorf("decode the daemon's answer: %w", err)
	}
	return nil
}

func failure(resp *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	var body apiv1.Error
	if err := json.Unmarshal(data, &body); err != nil || body.Message == "" {
		return fmt.Errorf("the daemon answered %s: %.200q", resp.Status, data)
	}
	return asError(body)
}

func asError(body apiv1.Error) *Error {
	e := &Error{Code: body.Code, Message: body.Message}
	if body.Hint != nil {
		e.Hint = *body.Hint
	}
	return e
}

func ptr[T any](v T) *T { return &v }
