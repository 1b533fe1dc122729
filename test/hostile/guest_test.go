package hostile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/guest/files"
	"github.com/agentkernel/agentkernel/internal/guest/forward"
	"github.com/agentkernel/agentkernel/internal/guest/stream"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// guest is a guest agent. What is not set is honest.
type guest struct {
	// calls take a connection over from the first call on it, by the name of its method. They end with the connection.
	calls map[string]func(net.Conn)
	// stream takes over a connection for an operation. It ends with the connection.
	stream func(net.Conn, *guestv1.StreamRequest)
	// list and signal answer calls on the control connection.
	list   func(context.Context, *guestv1.ListRequest) (*guestv1.ListResponse, error)
	signal func(context.Context) error

	reached chan struct{} // told each time that an attack is under way
}

func (g *guest) tell() {
	select {
	case g.reached <- struct{}{}:
	default: // nobody counts any more
	}
}

// pair is the two ends of a connection of unix sockets, as a VMM gives it.
func pair() (host, guest net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		var e error
		ends[i], e = net.FileConn(f)
		err = errors.Join(err, e, f.Close())
	}
	return ends[0], ends[1], err
}

// serve serves one connection of the host until it ends.
func (g *guest) serve(conn net.Conn, port uint32) {
	defer conn.Close()
	if port == sandbox.GuestStreamPort {
		g.serveStream(conn)
		return
	}
	first, method, err := firstCall(conn)
	if err != nil {
		return
	}
	if attack := g.calls[method]; attack != nil {
		attack(conn)
		return
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		return
	}
	guestv1.RegisterAgentService(server, &agent{g: g})
	l := newListener(&replayed{Conn: conn, Reader: io.MultiReader(bytes.NewReader(first), conn)})
	_ = server.Serve(context.Background(), l) // ends with the connection
	_ = server.Close()
}

func (g *guest) serveStream(conn net.Conn) {
	if g.stream == nil {
		l := newListener(conn)
		_ = stream.Handlers{"forward": forward.Handle, "files": files.Service{}.Handle}.Serve(context.Background(), l)
		return
	}
	req := new(guestv1.StreamRequest)
	if protodelim.UnmarshalFrom(byteReader{conn}, req) == nil {
		g.stream(conn, req)
	}
}

type byteReader struct{ io.Reader }

func (r byteReader) ReadByte() (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(r.Reader, b[:])
	return b[0], err
}

// firstCall reads the first frame of a connection.
func firstCall(conn net.Conn) (frame []byte, method string, err error) {
	header := make([]byte, 10)
	if _, err := io.ReadFull(conn, header); err != nil {
		return nil, "", err
	}
	body := make([]byte, binary.BigEndian.Uint32(header))
	if _, err := io.ReadFull(conn, body); err != nil {
		return nil, "", err
	}
	var req ttrpc.Request
	if err := proto.Unmarshal(body, &req); err != nil {
		return nil, "", err
	}
	return append(header, body...), req.GetMethod(), nil
}

// replayed is a connection of which something has been read that is to be read again.
type replayed struct {
	net.Conn
	io.Reader
}

func (r *replayed) Read(p []byte) (int, error) { return r.Reader.Read(p) }

// listener has one connection, and ends with it.
type listener struct {
	net.Conn
	once sync.Once
	next chan net.Conn
	done chan struct{}
}

func newListener(c net.Conn) *listener {
	l := &listener{Conn: c, next: make(chan net.Conn, 1), done: make(chan struct{})}
	l.next <- &ending{c, l}
	return l
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.next:
		return c, nil
	default:
	}
	<-l.done
	return nil, net.ErrClosed
}
func (l *listener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *listener) Addr() net.Addr { return l.LocalAddr() }

// ending is a connection whose end is io.EOF, as the RPC library wants it, and ends its listener.
type ending struct {
	net.Conn
	l *listener
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.Conn.Read(p)
	if err != nil {
		_ = e.Close()
		err = io.EOF
	}
	return n, err
}

func (e *ending) Close() error { _ = e.l.Close(); return e.Conn.Close() }

// agent is the honest part of a guest agent.
type agent struct {
	guestv1.AgentService
	g *guest
}

func hello() *guestv1.HelloResponse {
	return &guestv1.HelloResponse{Protocol: 1, AgentBuild: "fake", KernelRelease: "6.1", Arch: "x86_64", InitNs: 1, ReadyNs: 2, Capabilities: []string{"exec", "files", "stats"}}
}

func (a *agent) Hello(context.Context, *guestv1.HelloRequest) (*guestv1.HelloResponse, error) {
	return hello(), nil
}

func (a *agent) Ping(context.Context, *guestv1.PingRequest) (*guestv1.PingResponse, error) {
	return &guestv1.PingResponse{}, nil
}

func (a *agent) List(ctx context.Context, req *guestv1.ListRequest) (*guestv1.ListResponse, error) {
	if a.g.list == nil {
		return &guestv1.ListResponse{}, nil
	}
	return a.g.list(ctx, req)
}

func (a *agent) Signal(ctx context.Context, _ *guestv1.SignalRequest) (*guestv1.SignalResponse, error) {
	if a.g.signal != nil {
		return &guestv1.SignalResponse{}, a.g.signal(ctx)
	}
	return &guestv1.SignalResponse{}, nil
}

// Exec is a command that greets.
func (a *agent) Exec(ctx context.Context, s guestv1.Agent_ExecServer) error {
	if _, err := s.Recv(); err != nil {
		return err
	}
	for _, r := range []*guestv1.ExecResponse{started, stdout([]byte("hello")), exited(0, 0)} {
		if err := s.Send(r); err != nil {
			return err
		}
	}
	<-ctx.Done() // the host closes the connection
	return nil
}

// Messages of a command.
var started = &guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Started{Started: &guestv1.ExecStarted{Pid: 7}}}

func stdout(p []byte) *guestv1.ExecResponse {
	return &guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Stdout{Stdout: p}}
}

func credit(n uint32) *guestv1.ExecResponse {
	return &guestv1.ExecResponse{Msg: &guestv1.ExecResponse_StdinCredit{StdinCredit: n}}
}

func exited(code, signal uint32) *guestv1.ExecResponse {
	return &guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Exited{Exited: &guestv1.ExecExited{Code: code, Signal: signal}}}
}

// Frame types of ttrpc: PROTOCOL.md of it.
const (
	typeResponse = 2
	typeData     = 3
)

func frame(stream uint32, kind byte, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	b = binary.BigEndian.AppendUint32(b, stream)
	return append(append(b, kind, 0), body...)
}

func encode(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

// data are messages on the first stream.
func data(messages ...*guestv1.ExecResponse) (b []byte) {
	for _, m := range messages {
		b = append(b, frame(1, typeData, encode(m))...)
	}
	return b
}

func response(stream uint32, m proto.Message) []byte {
	return frame(stream, typeResponse, encode(&ttrpc.Response{Status: &spb.Status{}, Payload: encode(m)}))
}

// silent neither says nor reads anything until the host hangs up.
func (g *guest) silent(conn net.Conn) {
	g.tell()
	poll(conn)
}

// says sends this, and then reads what comes.
func (g *guest) says(b []byte) func(net.Conn) {
	return func(conn net.Conn) {
		_, _ = conn.Write(b)
		g.tell()
		_, _ = io.Copy(io.Discard, conn)
	}
}

// flood is how many bytes of a flood have to have passed, and stuck how many milliseconds nothing has to pass, before it counts
// as under way.
const (
	flood = 8 << 20
	stuck = 300
)

// floods sends head, and then the same bytes without end. It tells that it is under way when the host takes no more, or has
// taken a lot.
func (g *guest) floods(head, again []byte) func(net.Conn) {
	return func(conn net.Conn) {
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		if _, err := conn.Write(head); err != nil {
			return
		}
		raw, err := conn.(*net.UnixConn).SyscallConn()
		if err != nil {
			return
		}
		again := bytes.Repeat(again, 1+64<<10/len(again))
		told := sync.OnceFunc(g.tell)
		defer told()
		for sent, at := 0, 0; ; {
			_ = raw.Control(func(fd uintptr) {
				p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
				if n, err := unix.Poll(p, stuck); n == 0 && err == nil || sent > flood {
					told()
				}
			})
			n, err := conn.Write(again[at:min(at+16<<10, len(again))]) // which does not wait where the poll saw room
			if sent, at = sent+n, (at+n)%len(again); err != nil {
				return
			}
		}
	}
}

// poll waits until the host has hung up, and reads nothing.
func poll(conn net.Conn) {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Write(func(fd uintptr) bool { // wakes up for what happens to the socket
		p := []unix.PollFd{{Fd: int32(fd)}}
		n, _ := unix.Poll(p, 0)
		return n > 0
	})
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}
