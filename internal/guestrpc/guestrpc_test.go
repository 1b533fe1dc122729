package guestrpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// guest is a guest agent that says what a test wants.
type guest struct {
	list     *guestv1.ListResponse
	hello    func() *guestv1.HelloResponse
	exec     func(guestv1.Agent_ExecServer) error
	signalID string
	arrived  chan struct{} // told of a Ping
	block    chan struct{} // Ping waits for it
}

func goodHello() *guestv1.HelloResponse {
	return &guestv1.HelloResponse{Protocol: 1, AgentBuild: "b", Capabilities: []string{"exec"}, KernelRelease: "6.1", Arch: "x86_64", InitNs: 5, ReadyNs: 7}
}

func (g *guest) Hello(context.Context, *guestv1.HelloRequest) (*guestv1.HelloResponse, error) {
	if g.hello == nil {
		return goodHello(), nil
	}
	return g.hello(), nil
}

func (g *guest) Ping(ctx context.Context, _ *guestv1.PingRequest) (*guestv1.PingResponse, error) {
	if g.block != nil {
		g.arrived <- struct{}{}
		<-g.block
	}
	return &guestv1.PingResponse{}, nil
}

func (g *guest) Exec(_ context.Context, s guestv1.Agent_ExecServer) error { return g.exec(s) }

func (g *guest) Signal(_ context.Context, r *guestv1.SignalRequest) (*guestv1.SignalResponse, error) {
	g.signalID = r.GetId()
	return nil, errors.New("bad \x1b[2Jnews")
}

func (g *guest) Shutdown(context.Context, *guestv1.ShutdownRequest) (*guestv1.ShutdownResponse, error) {
	return &guestv1.ShutdownResponse{}, nil
}

func (g *guest) List(context.Context, *guestv1.ListRequest) (*guestv1.ListResponse, error) {
	return g.list, nil
}

// serve runs g until the test ends and returns how to reach it.
func serve(t *testing.T, g guestv1.AgentService) func(context.Context) (Conn, error) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	guestv1.RegisterAgentService(server, g)
	if c, ok := g.(guestv1.CloneService); ok {
		guestv1.RegisterCloneService(server, c)
	}
	served := make(chan struct{})
	go func() { defer close(served); server.Serve(context.Background(), l) }()
	t.Cleanup(func() { server.Close(); <-served })
	return func(ctx context.Context) (Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", l.Addr().String())
	}
}

func connect(t *testing.T, g guestv1.AgentService) *Client {
	t.Helper()
	c, err := Connect(t.Context(), serve(t, g), Identity{Hostname: "h"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestHello(t *testing.T) {
	c := connect(t, new(guest))
	if i := c.Info(); i.Build != "b" || i.Init != 5 || i.Ready != 7 || i.Capabilities[0] != "exec" {
		t.Errorf("%+v", i)
	}
	if err := c.Ping(t.Context()); err != nil || !c.Alive() {
		t.Error(err)
	}
	for name, change := range map[string]func(*guestv1.HelloResponse){
		"protocol 0":        func(r *guestv1.HelloResponse) { r.Protocol = 0 },
		"protocol 2":        func(r *guestv1.HelloResponse) { r.Protocol = 2 },
		"long build":        func(r *guestv1.HelloResponse) { r.AgentBuild = strings.Repeat("x", 257) },
		"escape":            func(r *guestv1.HelloResponse) { r.KernelRelease = "\x1b[2J" },
		"newline":           func(r *guestv1.HelloResponse) { r.Arch = "a\nb" },
		"capability":        func(r *guestv1.HelloResponse) { r.Capabilities = []string{"\u202e"} },
		"many capabilities": func(r *guestv1.HelloResponse) { r.Capabilities = make([]string, 65) },
		"before the start":  func(r *guestv1.HelloResponse) { r.InitNs = -1 },
		"ready before init": func(r *guestv1.HelloResponse) { r.ReadyNs = 4 },
		"too late":          func(r *guestv1.HelloResponse) { r.ReadyNs = 1 << 62 },
		"oversized":         func(r *guestv1.HelloResponse) { r.AgentBuild = strings.Repeat("x", 1<<20) },
	} {
		g := &guest{hello: func() *guestv1.HelloResponse {
			r := goodHello()
			change(r)
			return r
		}}
		if c, err := Connect(t.Context(), serve(t, g), Identity{}); err == nil {
			t.Errorf("%s: accepted as %+v", name, c.Info())
			c.Close()
		}
	}
}

func TestCallEndsWithContext(t *testing.T) {
	g := &guest{arrived: make(chan struct{}, 1), block: make(chan struct{})}
	defer close(g.block)
	c := connect(t, g)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-g.arrived; cancel() }()
	if err := c.Ping(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := c.Ping(t.Context()); !errors.Is(err, ErrBroken) || c.Alive() {
		t.Errorf("a connection with a call that was given up says %v", err)
	}
}

func TestGuestErrorIsClean(t *testing.T) {
	g := new(guest)
	err := connect(t, g).Signal(t.Context(), "id", 15)
	if err == nil || strings.ContainsRune(err.Error(), 0x1b) || g.signalID != "id" {
		t.Errorf("%q", err)
	}
}

type script []*guestv1.ExecResponse

var (
	started = &guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Started{Started: &guestv1.ExecStarted{Pid: 1}}}
	hello   = &guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Stdout{Stdout: []byte("hello")}}
	ended   = exits(0, 0)
)

func exits(code, signal uint32) *guestv1.ExecResponse {
	return &guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Exited{Exited: &guestv1.ExecExited{Code: code, Signal: signal}}}
}

func stderr(n int) *guestv1.ExecResponse {
	return &guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Stderr{Stderr: make([]byte, n)}}
}

func credit(n uint32) *guestv1.ExecResponse {
	return &guestv1.ExecResponse{Msg: &guestv1.ExecResponse_StdinCredit{StdinCredit: n}}
}

func fails(reason guestv1.ExecFailed_Reason) *guestv1.ExecResponse {
	return &guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Failed{Failed: &guestv1.ExecFailed{Reason: reason, Message: "why\n"}}}
}

func repeat(r *guestv1.ExecResponse, n int) (s script) {
	for range n {
		s = append(s, r)
	}
	return s
}

// TestExecRules plays what a guest may say about a command, and what it may not.
func TestExecRules(t *testing.T) {
	for name, tc := range map[string]struct {
		script script
		want   string // the error; empty: none, and the last event is the end
	}{
		"run":                    {script{started, hello, stderr(maxPiece), ended}, ""},
		"failed":                 {script{fails(guestv1.ExecFailed_NOT_FOUND)}, ""},
		"lost after start":       {script{started, fails(guestv1.ExecFailed_INTERNAL)}, ""},
		"signal":                 {script{started, exits(0, 64)}, ""},
		"all credit used":        {append(append(script{started}, repeat(hello, outputCredit)...), ended), ""},
		"output before start":    {script{hello}, "before the start"},
		"exit before start":      {script{ended}, "before the start"},
		"two starts":             {script{started, started}, "twice"},
		"not found after start":  {script{started, fails(guestv1.ExecFailed_NOT_FOUND)}, "after it had started"},
		"unknown reason":         {script{fails(77)}, "unknown reason"},
		"no reason":              {script{fails(0)}, "unknown reason"},
		"empty":                  {script{started, {}}, "empty"},
		"nothing in stdout":      {script{started, {Msg: &guestv1.ExecResponse_Stdout{}}}, "0 bytes"},
		"large piece":            {script{started, stderr(maxPiece + 1)}, "32769 bytes"},
		"large frame":            {script{started, stderr(maxFrame + 1)}, "frame of"},
		"code 256":               {script{started, exits(256, 0)}, "cannot be"},
		"signal 65":              {script{started, exits(0, 65)}, "cannot be"},
		"code and signal":        {script{started, exits(1, 9)}, "cannot be"},
		"credit without stdin":   {script{started, credit(1)}, "asked for 1 bytes of stdin"},
		"ends without an end":    {script{started, hello}, "ended the stream"},
		"nothing at all":         {script{}, "ended the stream"},
		"end and then something": {script{started, ended, hello}, ""}, // Recv does not look behind the end
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, &guest{exec: func(s guestv1.Agent_ExecServer) error {
				if _, err := s.Recv(); err != nil {
					return err
				}
				for _, r := range tc.script {
					if err := s.Send(r); err != nil {
						return err
					}
				}
				return nil
			}})
			x, err := c.Exec(t.Context(), ExecSpec{ID: "1", Argv: []string{"x"}})
			if err != nil {
				t.Fatal(err)
			}
			defer x.Close()
			var last Event
			for err == nil {
				var ev Event
				if ev, err = x.Recv(); err == nil {
					last = ev
				}
			}
			if tc.want == "" {
				_, exited := last.(Exited)
				f, failed := last.(Failed)
				if !errors.Is(err, io.EOF) || !exited && !failed || failed && f.Message != "why?" {
					t.Errorf("%v after %#v", err, last)
				}
			} else if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

// A terminal has no error output.
func TestTerminalRules(t *testing.T) {
	d := decoder{terminal: true, started: true}
	if _, err := d.decode(hello); err != nil {
		t.Error(err)
	}
	if _, err := d.decode(stderr(1)); err == nil {
		t.Error("error output was taken")
	}
}

// Only those who asked for it are let go, or told of gaps.
func TestAttachRules(t *testing.T) {
	detached := &guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Detached{Detached: &guestv1.ExecDetached{}}}
	dropped := &guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Dropped{Dropped: 7}}
	for _, tc := range []struct {
		dec  decoder
		resp *guestv1.ExecResponse
		want Event
	}{
		{decoder{started: true}, detached, nil},
		{decoder{started: true, detach: true}, detached, Detached{}},
		{decoder{started: true}, dropped, nil},
		{decoder{started: true, attached: true}, dropped, Dropped(7)},
		{decoder{detach: true}, detached, nil},
	} {
		if ev, err := tc.dec.decode(tc.resp); ev != tc.want || (err == nil) != (tc.want != nil) {
			t.Errorf("%+v: %v, %v", tc.dec, ev, err)
		}
	}
}

func TestList(t *testing.T) {
	good := func() *guestv1.ExecInfo {
		return &guestv1.ExecInfo{Number: 3, Id: "a", Argv: []string{"x\x1b"}, EndedUnixNs: 1, Exited: &guestv1.ExecExited{Code: 4}}
	}
	g := &guest{list: &guestv1.ListResponse{Execs: []*guestv1.ExecInfo{good()}}}
	c := connect(t, g)
	list, err := c.List(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != "a" || list[0].Argv[0] != "x?" || list[0].Exited.Code != 4 || list[0].Ended.IsZero() {
		t.Fatalf("%+v, %v", list, err)
	}
	for name, change := range map[string]func(*guestv1.ListResponse){
		"out of order":    func(r *guestv1.ListResponse) { r.Execs = append(r.Execs, good()) },
		"endless":         func(r *guestv1.ListResponse) { r.Execs, r.More = nil, true },
		"again and again": func(r *guestv1.ListResponse) { r.More = true },
		"too many":        func(r *guestv1.ListResponse) { r.Execs = make([]*guestv1.ExecInfo, 65) },
		"long argv":       func(r *guestv1.ListResponse) { r.Execs[0].Argv = []string{strings.Repeat("x", 257)} },
		"long id":         func(r *guestv1.ListResponse) { r.Execs[0].Id = strings.Repeat("x", 257) },
		"code 256":        func(r *guestv1.ListResponse) { r.Execs[0].Exited.Code = 256 },
	} {
		g.list = &guestv1.ListResponse{Execs: []*guestv1.ExecInfo{good()}}
		change(g.list)
		if list, err := c.List(t.Context()); err == nil {
			t.Errorf("%s: %+v", name, list)
		}
	}
}

// TestFlood checks that the messages that wait for Recv are bounded.
func TestFlood(t *testing.T) {
	l := new(line)
	l.begin()
	check := l.expect
	for range maxWaiting {
		if err := check(1, typeData, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := check(1, typeData, 0); err == nil {
		t.Error("one more than may wait is accepted")
	}
	if err := check(3, typeData, 0); err == nil {
		t.Error("a message on another stream is accepted")
	}
}

func TestStdin(t *testing.T) {
	got := make(chan []byte, 1)
	c := connect(t, &guest{exec: func(s guestv1.Agent_ExecServer) error {
		req, err := s.Recv()
		if err != nil || !req.GetStart().GetStdin() || req.GetStart().GetOutputCredit() == 0 {
			return errors.New("no start")
		}
		s.Send(started)
		s.Send(credit(100_000))
		var all []byte
		for {
			if req, err = s.Recv(); err != nil {
				return err
			}
			if len(req.GetStdin()) > maxPiece {
				return errors.New("too large a piece")
			}
			all = append(all, req.GetStdin()...)
			if req.GetStdinClose() != nil {
				got <- all
				return s.Send(ended)
			}
		}
	}})
	x, err := c.Exec(t.Context(), ExecSpec{ID: "1", Argv: []string{"x"}, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	want := bytes.Repeat([]byte("0123456789"), 10_000)
	if err := x.SendStdin(want); err == nil {
		t.Error("stdin was taken without credit")
	}
	for range 2 {
		if _, err := x.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.SendStdin(append(want, 'x')); err == nil {
		t.Error("more stdin was taken than there is credit")
	}
	if err := errors.Join(x.SendStdin(want), x.CloseStdin(), x.CloseStdin()); err != nil {
		t.Error(err)
	}
	if err := x.SendStdin(nil); !errors.Is(err, ErrStdinClosed) {
		t.Error(err)
	}
	if !bytes.Equal(<-got, want) {
		t.Error("other bytes arrived")
	}
	if ev, err := x.Recv(); ev != (Exited{}) || err != nil {
		t.Error(ev, err)
	}
}

// TestBackPressure checks that a guest gets credit as output is taken, and no more.
func TestBackPressure(t *testing.T) {
	const pieces = 500
	c := connect(t, &guest{exec: func(s guestv1.Agent_ExecServer) error {
		req, err := s.Recv()
		if err != nil {
			return err
		}
		s.Send(started)
		have := req.GetStart().GetOutputCredit()
		for range pieces {
			for have == 0 {
				if req, err = s.Recv(); err != nil {
					return err
				}
				have = req.GetOutputCredit()
			}
			have--
			if err := s.Send(stderr(maxPiece)); err != nil {
				return err
			}
		}
		return s.Send(ended)
	}})
	x, err := c.Exec(t.Context(), ExecSpec{ID: "1", Argv: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	n := 0
	for {
		ev, err := x.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := ev.(Exited); ok {
			break
		}
		if e, ok := ev.(Stderr); ok {
			n += len(e)
		}
	}
	if n != pieces*maxPiece {
		t.Errorf("%d bytes came", n)
	}
}

func TestStartTooLarge(t *testing.T) {
	_, err := connect(t, new(guest)).Exec(t.Context(), ExecSpec{Argv: []string{strings.Repeat("x", maxStart)}})
	if sandbox.KindOf(err) != sandbox.Invalid {
		t.Error(err)
	}
}

// deaf is a connection whose other end is there and does nothing.
func deaf(t *testing.T) Conn {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { theirs.Close() })
	return ours
}

// TestDeafGuest checks that a guest that reads nothing holds up nothing for longer than its context or Close.
func TestDeafGuest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	dial := func(context.Context) (Conn, error) { cancel(); return deaf(t), nil }
	if _, err := Connect(ctx, dial, Identity{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	c := connect(t, new(guest))
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	c.dial = dial
	if _, err := c.Exec(ctx, ExecSpec{Argv: []string{"x"}}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestLinkDies checks that Recv, a stdin that waits, and calls end when the connection does.
func TestLinkDies(t *testing.T) {
	hold := make(chan struct{})
	g := &guest{arrived: make(chan struct{}, 1), block: hold, exec: func(s guestv1.Agent_ExecServer) error {
		s.Send(started)
		<-hold
		return nil
	}}
	dial := serve(t, g)
	defer close(hold)
	var mu sync.Mutex
	var conns []Conn
	c, err := Connect(t.Context(), func(ctx context.Context) (Conn, error) {
		conn, err := dial(ctx)
		mu.Lock()
		conns = append(conns, conn)
		mu.Unlock()
		return conn, err
	}, Identity{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	x, err := c.Exec(t.Context(), ExecSpec{ID: "1", Argv: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Recv(); err != nil {
		t.Fatal(err)
	}
	results := make(chan error, 2)
	go func() { _, err := x.Recv(); results <- err }()
	go func() { results <- c.Ping(t.Context()) }()
	mu.Lock()
	for _, conn := range conns {
		conn.Close()
	}
	mu.Unlock()
	for range 2 {
		if err := <-results; !errors.Is(err, ErrBroken) {
			t.Error(err)
		}
	}
	<-c.dead
	if c.Alive() {
		t.Error("the client believes that its connection stands")
	}
}

// TestUnaskedAnswers sends answers on the control connection that belong to no call.
func TestUnaskedAnswers(t *testing.T) {
	frame := func(stream uint32, kind byte) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{0, 0, 0, 0}, stream), kind, 0)
	}
	for name, said := range map[string][]byte{
		"other stream":  frame(3, typeResponse),
		"no stream":     frame(0, typeResponse),
		"data":          frame(1, typeData),
		"request":       frame(1, 1),
		"endless frame": {255, 255, 255, 255, 0, 0, 0, 1, typeResponse, 0},
	} {
		ours, theirs := net.Pipe()
		go io.Copy(io.Discard, theirs)
		go theirs.Write(said)
		_, err := Connect(t.Context(), func(context.Context) (Conn, error) { return ours, nil }, Identity{})
		if err == nil || !strings.Contains(err.Error(), "the guest sent") {
			t.Errorf("%s: %v", name, err)
		}
		theirs.Close()
	}
}

// FuzzEvents decodes what a guest may say about a command, one message after another, and checks the order of the events.
func FuzzEvents(f *testing.F) {
	add := func(s ...*guestv1.ExecResponse) {
		var all []byte
		for _, r := range s {
			b, err := proto.Marshal(r)
			if err != nil {
				f.Fatal(err)
			}
			all = append(append(all, byte(len(b))), b...)
		}
		f.Add(all, true)
	}
	add(started, hello, credit(9), ended)
	add(fails(guestv1.ExecFailed_BAD_REQUEST), ended)
	add(ended, started)
	f.Fuzz(func(t *testing.T, said []byte, stdin bool) {
		d := decoder{hasStdin: stdin}
		begun, over := false, false
		for len(said) > 0 {
			n := min(int(said[0]), len(said)-1)
			var r guestv1.ExecResponse
			if proto.Unmarshal(said[1:1+n], &r) != nil {
				return
			}
			said = said[1+n:]
			ev, err := d.decode(&r)
			if err != nil {
				return
			}
			switch ev := ev.(type) {
			case Started:
				if begun || over {
					t.Fatal("a second start")
				}
				begun = true
			case Stdout, Stderr:
				if !begun || over {
					t.Fatal("output out of its turn")
				}
			case StdinCredit:
				if !begun || over || !stdin || ev == 0 {
					t.Fatal("credit out of its turn")
				}
			case Exited:
				if !begun || over || ev.Code > 255 || ev.Signal > 64 {
					t.Fatalf("%+v", ev)
				}
				over = true
			case Failed:
				if over {
					t.Fatal("a second end")
				}
				over = true
			default:
				t.Fatalf("event %#v", ev)
			}
		}
	})
}

// FuzzGuest lets a guest answer a command with any bytes; nothing may panic or hang.
func FuzzGuest(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x01\x02\x00"))
	f.Add([]byte("\x00\x00\x00\x02\x00\x00\x00\x01\x03\x00\x0a\x00\x00\x00\x00\x04\x00\x00\x00\x01\x03\x00\x2a\x02\x08\x07"))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x01\x03\x05"))
	f.Fuzz(func(t *testing.T, said []byte) {
		ours, theirs := net.Pipe()
		ended := make(chan struct{})
		go func() { defer close(ended); io.Copy(io.Discard, theirs) }()
		go func() {
			theirs.Write(said)
			theirs.Close()
		}()
		c := &Client{dial: func(context.Context) (Conn, error) { return ours, nil }}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		x, err := c.Exec(ctx, ExecSpec{ID: "1", Argv: []string{"x"}, Stdin: true})
		if err == nil {
			for err == nil {
				_, err = x.Recv()
			}
			x.Close()
		}
		if errors.Is(err, context.DeadlineExceeded) {
			t.Error("hangs")
		}
		ours.Close()
		<-ended
	})
}
