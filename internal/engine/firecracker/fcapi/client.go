package fcapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
)

// maxAnswer bounds an answer, in bytes. The largest is the metadata of a microVM, whose store Firecracker bounds by 50 KiB.
const maxAnswer = 1 << 20

// maxFault bounds what is kept of an error message, in bytes.
const maxFault = 1000

// FaultError is an answer with which Firecracker refuses a request.
type FaultError struct {
	Request string // e.g. "PUT /boot-source"
	Status  int    // of HTTP
	Message string // the fault_message: printable, one line; empty when the answer had none
}

func (e *FaultError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("Firecracker refused %s with status %d and no word", e.Request, e.Status)
	}
	return fmt.Sprintf("Firecracker refused %s: %s", e.Request, e.Message)
}

// Client speaks to one Firecracker. Its methods may be called from any goroutine; each ends with its context. The errors
// that they return are *FaultError, *UnsupportedError, or tell of a connection that failed.
type Client struct {
	http    http.Client
	running Version
}

// Connect asks the Firecracker that dial connects to for its version and state. That is one request, which is answered when
// a configuration from a file is in force and its guest has been started.
func Connect(ctx context.Context, dial func(context.Context) (net.Conn, error)) (*Client, InstanceInfo, error) {
	c := &Client{http: http.Client{
		Transport: &http.Transport{
			DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			DisableCompression: true, MaxConnsPerHost: 1, MaxResponseHeaderBytes: 16 << 10,
		},
		// A VMM has no business to send us elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	info, err := c.InstanceInfo(ctx)
	if err == nil {
		c.running, err = ParseVersion(info.VMMVersion)
	}
	if err != nil {
		c.Close()
		return nil, InstanceInfo{}, fmt.Errorf("ask Firecracker for its version: %w", err)
	}
	return c, info, nil
}

// Running is the version of the Firecracker.
func (c *Client) Running() Version { return c.running }

// Close closes the connection, unless a request is under way. The next request makes another one.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// request is one call of the API.
type request struct {
	method, path string
	since        string // first version with this endpoint; empty for all
	body         any    // nil for none
	result       any    // pointer; nil when the answer has no content
}

func (c *Client) put(ctx context.Context, path, since string, body any) error {
	return c.do(ctx, request{method: http.MethodPut, path: path, since: since, body: body})
}

func (c *Client) patch(ctx context.Context, path, since string, body any) error {
	return c.do(ctx, request{method: http.MethodPatch, path: path, since: since, body: body})
}

func (c *Client) get(ctx context.Context, path, since string, result any) error {
	return c.do(ctx, request{method: http.MethodGet, path: path, since: since, result: result})
}

// gate refuses what the running version does not know.
func (c *Client) gate(r request) error {
	what := r.method + " " + r.path
	if r.since != "" && c.running.Compare(since(r.since)) < 0 {
		return &UnsupportedError{What: what, Since: since(r.since), Running: c.running}
	}
	if r.body == nil {
		return nil
	}
	if name, first, found := unknownField(reflect.ValueOf(r.body), c.running); found {
		return &UnsupportedError{What: fmt.Sprintf("the field %s of %s", name, what), Since: first, Running: c.running}
	}
	return nil
}

func (c *Client) do(ctx context.Context, r request) error {
	if err := c.gate(r); err != nil {
		return err
	}
	what := r.method + " " + r.path
	var content io.Reader
	if r.body != nil {
		b, err := json.Marshal(r.body)
		if err != nil {
			return fmt.Errorf("encode %s: %w", what, err)
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, "http://localhost"+r.path, content)
	if err != nil {
		return fmt.Errorf("make %s: %w", what, err)
	}
	if content != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.failed(ctx, what, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return c.failed(ctx, what, err)
	case len(answer) > maxAnswer:
		return fmt.Errorf("read Firecracker's answer to %s: it is longer than %d bytes", what, maxAnswer)
	case resp.StatusCode/100 != 2:
		return &FaultError{Request: what, Status: resp.StatusCode, Message: faultMessage(answer)}
	case r.result == nil:
		return nil
	}
	if err := json.Unmarshal(answer, r.result); err != nil {
		return fmt.Errorf("decode Firecracker's answer to %s: %w", what, err)
	}
	return nil
}

// failed words the error of a connection: without the address, which is made up, and with why its context ended.
func (c *Client) failed(ctx context.Context, what string, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	var url interface{ Unwrap() error }
	if errors.As(err, &url) && strings.Contains(err.Error(), "http://localhost") {
		err = url.Unwrap()
	}
	return fmt.Errorf("send Firecracker %s: %w", what, err)
}

// faultMessage is the definition Error of the specification, fit to be shown.
func faultMessage(answer []byte) string {
	var fault struct {
		Message string `json:"fault_message"`
	}
	if json.Unmarshal(answer, &fault) != nil {
		return ""
	}
	line := strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r > '~':
			return -1
		}
		return r
	}, fault.Message)
	return strings.TrimSpace(line[:min(len(line), maxFault)])
}
