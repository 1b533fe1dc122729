package vm

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// echoServer has a server in the guest that sends each connection's bytes back, and ends its direction when the client has
// ended its own.
func (h *home) echoServer(name, port string) {
	h.t.Helper()
	h.sh(name, "nc -ll -p "+port+" -e cat >/dev/null 2>&1 & until nc -w 1 127.0.0.1 "+port+" </dev/null; do :; done")
}

// publishedAt is where the first published port of a sandbox is listened on.
func (h *home) publishedAt(name string) string {
	h.t.Helper()
	return strings.TrimSpace(strings.Split(h.ok("port", name), " -> ")[1])
}

func (h *home) dial(address string) *net.TCPConn {
	h.t.Helper()
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		h.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// echo sends data, ends its direction, and expects the same back.
func echo(c net.Conn, data []byte) error {
	defer c.Close()
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		sent <- errors.Join(err, c.(interface{ CloseWrite() error }).CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(got, data) {
		err = errors.New("what comes back is not what was sent")
	}
	return errors.Join(err, <-sent)
}

func (h *home) echoes(address, text string) {
	h.t.Helper()
	if err := echo(h.dial(address), []byte(text)); err != nil {
		h.t.Errorf("%s: %v", text, err)
	}
}

func TestPublish(t *testing.T) {
	h := newHome(t)
	h.started("a", "-p", "0:7")
	address := h.publishedAt("a")
	if !strings.HasPrefix(address, "127.0.0.1:") || !strings.Contains(h.ok("list"), address+"->7") || !strings.Contains(h.ok("inspect", "a"), address) {
		t.Errorf("published at %s, and list says\n%s", address, h.ok("list"))
	}
	if _, err := h.dial(address).Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("nothing listens in the guest, and a client sees %v", err)
	}
	h.echoServer("a", "7")
	h.echoes(address, "hello")

	t.Run("200 connections at once", func(t *testing.T) {
		var open []*net.TCPConn
		for range 200 { // one after another, as busybox's nc lets few wait
			c := h.dial(address)
			open = append(open, c)
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		var all sync.WaitGroup
		for i, c := range open {
			all.Go(func() {
				if err := echo(c, bytes.Repeat([]byte{byte(i)}, 1000)); err != nil {
					t.Errorf("connection %d: %v", i, err)
				}
			})
		}
		all.Wait()
	})
	t.Run("a client that does not read holds up no other", func(t *testing.T) {
		stuck := h.dial(address)
		defer stuck.Close()
		_ = stuck.SetDeadline(time.Time{})
		go func() { _, _ = io.Copy(stuck, zeros{}) }()
		h.echoes(address, "beside it")
	})
	t.Run("16 MiB both ways", func(t *testing.T) {
		data := make([]byte, 16<<20)
		_, _ = rand.Read(data)
		began := time.Now()
		if err := echo(h.dial(address), data); err != nil {
			t.Error(err)
		}
		t.Logf("%.1f MB/s each way", float64(len(data))/1e6/time.Since(began).Seconds())
	})
	t.Run("the daemon restarts", func(t *testing.T) {
		c := h.dial(address)
		defer c.Close()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		h.killDaemon()
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a connection outlives the daemon")
		}
		h.ok("list") // starts the next
		if again := h.publishedAt("a"); again != address {
			t.Errorf("published at %s, and before at %s", again, address)
		}
		h.echoes(address, "adopted")
	})
	t.Run("the port is taken", func(t *testing.T) {
		h.create("b", "-p", strings.TrimPrefix(address, "127.0.0.1:")+":80")
		h.fails(125, []string{"in use", `sandbox "a"`, "hint:"}, "start", "b")
		h.expectState("b", "created")
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		h.create("c", "--publish", l.Addr().String()+":80")
		h.fails(125, []string{"in use", "ss -ltnp"}, "start", "c")
	})
	t.Run("the sandbox restarts", func(t *testing.T) {
		h.ok("stop", "a")
		if _, err := net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the port of a stopped sandbox: %v", err)
		}
		h.ok("start", "a")
		h.echoServer("a", "7")
		h.echoes(h.publishedAt("a"), "again")
	})
}

// forwarder is a port-forward that runs.
type forwarder struct {
	cmd     *exec.Cmd
	address string
	stderr  *bufio.Reader
}

func (h *home) forward(args ...string) *forwarder {
	h.t.Helper()
	cmd := h.command(append([]string{"--json", "port-forward"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	errOut, err := cmd.StderrPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var line struct{ Address string }
	f := &forwarder{cmd: cmd, stderr: bufio.NewReader(errOut)}
	if err := json.NewDecoder(out).Decode(&line); err != nil {
		h.t.Fatal(err)
	}
	f.address = line.Address
	return f
}

// says waits for a line on stderr.
func (f *forwarder) says(t *testing.T, want string) {
	t.Helper()
	line, err := f.stderr.ReadString('\n')
	if err != nil || !strings.Contains(line, want) {
		t.Errorf("it says %q, %v; want %q", line, err, want)
	}
}

func TestPortForward(t *testing.T) {
	h := newHome(t)
	h.create("a")
	h.fails(125, []string{"not running"}, "port-forward", "a", "0:80")
	h.fails(125, []string{"65536"}, "port-forward", "a", "65536:80")
	h.ok("start", "a")
	f := h.forward("a", "0:80")
	if _, err := h.dial(f.address).Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("nothing listens in the guest, and a client sees %v", err)
	}
	f.says(t, "nothing listens on port 80")

	serve := "mkdir -p /tmp/www && head -c 20000000 /dev/urandom > /tmp/www/big && httpd -p 127.0.0.1:80 -h /tmp/www && sha256sum < /tmp/www/big"
	sum, _, _ := strings.Cut(h.sh("a", serve), " ")
	get := func(c *http.Client, url string) {
		t.Helper()
		began := time.Now()
		resp, err := c.Get(url + "/big")
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		hash := sha256.New()
		n, err := io.Copy(hash, resp.Body)
		if err != nil || hex.EncodeToString(hash.Sum(nil)) != sum {
			t.Errorf("%d bytes with another sum, %v", n, err)
		}
		t.Logf("%.1f MB/s from the guest", float64(n)/1e6/time.Since(began).Seconds())
	}
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	get(plain, "http://"+f.address)

	// The SDK's connections serve any client.
	sdk := client.New(filepath.Join(h.dir, "run", "daemon.sock"))
	defer sdk.Close()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return sdk.Dial(ctx, "a", 80) }
	get(&http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}, "http://a")

	h.killDaemon()
	get(plain, "http://"+f.address) // port-forward starts the next daemon
	h.ok("stop", "a")
	if _, err := h.dial(f.address).Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the sandbox is stopped, and a client sees %v", err)
	}
	f.says(t, "not running")
	h.ok("start", "a")
	sum, _, _ = strings.Cut(h.sh("a", serve), " ")
	get(plain, "http://"+f.address)
	if err := f.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(f.stderr); len(rest) > 0 {
		t.Errorf("it says %q", rest)
	}
	if err := f.cmd.Wait(); err != nil {
		t.Errorf("Ctrl-C: %v", err)
	}
}
