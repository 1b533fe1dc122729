package fcapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func isUnsupported(err error) bool {
	var e *UnsupportedError
	return errors.As(err, &e)
}

// fake is a server that accepts everything.
type fake struct {
	version string
	answer  []byte // of every GET but the one of Connect; nil for the one of Connect
	socket  string

	mu       sync.Mutex
	received []received
	greeted  bool
}

type received struct {
	method, path string
	body         []byte
}

func newFake(t *testing.T, version string) *fake {
	t.Helper()
	f := &fake{version: version, socket: filepath.Join(t.TempDir(), "s")}
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: f}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return f
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.greeted {
		f.greeted = true
		_ = json.NewEncoder(w).Encode(InstanceInfo{State: StateRunning, VMMVersion: f.version})
		return
	}
	f.received = append(f.received, received{r.Method, r.URL.Path, body})
	if f.answer == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	_, _ = w.Write(f.answer)
}

// requests are those after Connect's.
func (f *fake) requests() []received {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.received
}

func (f *fake) client(t *testing.T) *Client {
	t.Helper()
	c, _, err := Connect(t.Context(), dialer(f.socket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func dialer(socket string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
}

// says is a server that answers every request with the same bytes and hangs up.
func says(t *testing.T, text string) func(context.Context) (net.Conn, error) {
	t.Helper()
	return func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer theirs.Close()
			buf := make([]byte, 4096)
			if _, err := theirs.Read(buf); err == nil {
				_, _ = io.WriteString(theirs, text)
			}
		}()
		t.Cleanup(func() { ours.Close(); <-done })
		return ours, nil
	}
}

func answer(status, body string) string {
	return "HTTP/1.1 " + status + "\r\nServer: Firecracker API\r\nContent-Type: application/json\r\nContent-Length: " + itoa(len(body)) + "\r\n\r\n" + body
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

func TestConnectFails(t *testing.T) {
	gone := func(context.Context) (net.Conn, error) { return nil, errors.New("connection refused") }
	for _, tc := range []struct {
		name, want string
		dial       func(context.Context) (net.Conn, error)
	}{
		{"nobody listens", "connection refused", gone},
		{"it hangs up", "EOF", says(t, "")},
		{"half a header", "malformed", says(t, "HTTP/1.1 200 \r\nContent-Le")},
		{"half a body", "unexpected EOF", says(t, strings.TrimSuffix(answer("200 OK", `{"vmm_version":"1.16.1"}`), `.1"}`))},
		{"not HTTP", "malformed HTTP", says(t, "hello\n\n")},
		{"not JSON", "decode", says(t, answer("200 OK", "hello"))},
		{"no version", "is not a version", says(t, answer("200 OK", "{}"))},
		{"refused with a word", "no way", says(t, answer("400 Bad Request", `{"fault_message":"no way\n\u001b[31m"}`))},
		{"refused without a word", "status 500", says(t, answer("500 Internal Server Error", "oops"))},
		{"sent elsewhere", "status 302", says(t, "HTTP/1.1 302 Found\r\nLocation: http://example.org/\r\nContent-Length: 0\r\n\r\n")},
		{"endless answer", "longer than", says(t, answer("200 OK", `"`+strings.Repeat("x", maxAnswer)+`"`))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, err := Connect(t.Context(), tc.dial)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want an error with %q", err, tc.want)
			}
			if err != nil && (strings.Contains(err.Error(), "localhost") || strings.ContainsRune(err.Error(), 0x1b)) {
				t.Errorf("%q is not fit to be shown", err)
			}
		})
	}
}

// A Firecracker that does not answer does not keep its caller.
func TestSlow(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the start was cancelled")
	errs := make(chan error)
	go func() {
		_, _, err := Connect(ctx, func(context.Context) (net.Conn, error) { return ours, nil })
		errs <- err
	}()
	if _, err := theirs.Read(make([]byte, 4096)); err != nil { // the request is there
		t.Fatal(err)
	}
	cancel(why)
	if err := <-errs; !errors.Is(err, why) {
		t.Errorf("%v, want why its context ended", err)
	}
}

func TestFault(t *testing.T) {
	c, _, err := Connect(t.Context(), says(t, answer("200 OK", `{"vmm_version":"1.16.1","state":"Running"}`)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Close()
	c.http.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return says(t, answer("400 Bad Request", `{"fault_message":"The kernel file cannot be opened: No such file"}`))(ctx)
	}
	err = c.PutBootSource(t.Context(), BootSource{KernelImagePath: "x"})
	var fault *FaultError
	if !errors.As(err, &fault) || fault.Status != 400 || err.Error() != "Firecracker refused PUT /boot-source: The kernel file cannot be opened: No such file" {
		t.Errorf("%v, want the fault message", err)
	}
}

func TestParseVersion(t *testing.T) {
	for in, want := range map[string]Version{
		"1.10.1": {1, 10, 1}, "v1.16.1": {1, 16, 1}, "1.17.0-dev": {1, 17, 0},
		"": {}, "1": {}, "1.2": {}, "1.2.3.4": {}, "1.x.3": {}, "1.-2.3": {}, "1.99999.0": {},
	} {
		got, err := ParseVersion(in)
		if got != want || (err != nil) != (want == Version{}) {
			t.Errorf("%q: %v, %v; want %v", in, got, err, want)
		}
	}
	if (Version{1, 9, 9}).Compare(Version{1, 10, 0}) >= 0 {
		t.Error("1.9 is not older than 1.10")
	}
}
