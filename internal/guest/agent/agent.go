// Package agent answers the host: the guest's side of the protocol in api/guest/v1.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/guest/exec"
	"github.com/agentkernel/agentkernel/internal/guest/identity"
	"github.com/agentkernel/agentkernel/internal/guest/reaper"
	"github.com/agentkernel/agentkernel/internal/guest/stats"
)

// Protocol is the version that this agent speaks.
const Protocol = 1

// Capabilities names what this agent can do beyond the first version of the protocol.
func Capabilities() []string {
	return []string{"exec", "terminal", "background", "limits", "signal", "shutdown", "files", "stats", "clone"}
}

// Options are what an agent is made of.
type Options struct {
	Runner   *exec.Runner
	Machine  Machine
	Stats    stats.Source
	Shutdown func(grace time.Duration) // ends the microVM
	// Enter makes a sandbox of a template, with the disks that the host gives it. It is nil for what was booted as a sandbox.
	Enter  func(disks []*guestv1.ResumeDisk) error
	Build  string        // of the agent
	Kernel string        // uname -r
	Arch   string        // uname -m
	Init   time.Duration // since the kernel's start: when this process began
	Ready  time.Duration // since the kernel's start: when it began to listen
}

// Machine is the microVM, which is given what must be its own.
type Machine interface {
	SetClock(now time.Time) error
	AddEntropy(entropy []byte) error
	// Sync writes what file systems hold in memory to the disks.
	Sync()
	// SetNames gives it names, and says how that went.
	SetNames(r *identity.Report, hostname, machineID string)
	// RemoveHostKeys deletes SSH host keys that are the image's or, with copied, another sandbox's, and tells how many there were.
	RemoveHostKeys(copied bool) (int, error)
}

// Serve answers on the listeners until one of them fails. Then calls that are under way end, and their commands.
func Serve(ctx context.Context, o Options, listeners ...net.Listener) error {
	server, err := ttrpc.NewServer()
	if err != nil {
		return fmt.Errorf("make the RPC server: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer server.Close()
	s := &service{o: o}
	s.entered.Store(o.Enter == nil)
	guestv1.RegisterAgentService(server, s)
	guestv1.RegisterCloneService(server, &cloneService{service: s})
	guestv1.RegisterStatsService(server, statsService{s})
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { failed <- fmt.Errorf("serve on %s: %w", l.Addr(), server.Serve(ctx, l)) }()
	}
	return <-failed
}

type service struct {
	o        Options
	shutdown sync.Once
	entered  atomic.Bool // it has its disks: it is no template, or not any more
}

// ready returns an error while this is a template: there is nothing yet that could be done.
func (s *service) ready() error {
	if !s.entered.Load() {
		return status.Error(codes.FailedPrecondition, "this microVM is a template, and has no disks yet")
	}
	return nil
}

// Hello takes the identity that the host gives, and says what this is.
func (s *service) Hello(ctx context.Context, req *guestv1.HelloRequest) (*guestv1.HelloResponse, error) {
	began := time.Now()
	if req.GetProtocol() < Protocol {
		return nil, status.Errorf(codes.FailedPrecondition, "the host speaks version %d of the protocol, and the guest agent speaks %d", req.GetProtocol(), Protocol)
	}
	resp := &guestv1.HelloResponse{
		Protocol: Protocol, AgentBuild: s.o.Build, Capabilities: Capabilities(), KernelRelease: s.o.Kernel, Arch: s.o.Arch,
		InitNs: int64(s.o.Init), ReadyNs: int64(s.o.Ready),
	}
	switch {
	case s.ready() != nil:
		resp.Awaits = guestv1.HelloResponse_DISKS
	case s.o.Runner.Frozen():
		resp.Awaits = guestv1.HelloResponse_THAW
	default:
		var r identity.Report
		r.Pass("clock", "", s.o.Machine.SetClock(time.Unix(0, req.GetUnixNano())))
		if req.GetHostname() != "" {
			s.makeKeys(ctx, &r, s.name(&r, req, false))
		}
		resp.Items = r.Items
	}
	resp.Clock = clock(began)
	return resp, nil
}

// Ping answers.
func (*service) Ping(context.Context, *guestv1.PingRequest) (*guestv1.PingResponse, error) {
	return &guestv1.PingResponse{}, nil
}

// Signal sends a signal to a command's process group. Its error has the code NotFound when the command does not run.
func (s *service) Signal(_ context.Context, req *guestv1.SignalRequest) (*guestv1.SignalResponse, error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	if n := req.GetSignal(); n < 1 || n > 64 {
		return nil, status.Errorf(codes.InvalidArgument, "signal %d is not one of 1 to 64", n)
	}
	err := s.o.Runner.Signal(req.GetId(), syscall.Signal(req.GetSignal()))
	if errors.Is(err, reaper.ErrGone) {
		return nil, status.Error(codes.NotFound, "no such command runs")
	}
	if err != nil {
		return nil, err
	}
	return &guestv1.SignalResponse{}, nil
}

// List tells of commands.
func (s *service) List(_ context.Context, req *guestv1.ListRequest) (*guestv1.ListResponse, error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	return s.o.Runner.List(req.GetAfter()), nil
}

// Shutdown begins to end the microVM. The context of a call ends when its answer has been handed on to be written.
func (s *service) Shutdown(ctx context.Context, req *guestv1.ShutdownRequest) (*guestv1.ShutdownResponse, error) {
	grace := time.Duration(req.GetGraceMs()) * time.Millisecond
	s.shutdown.Do(func() { context.AfterFunc(ctx, func() { s.o.Shutdown(grace) }) })
	return &guestv1.ShutdownResponse{}, nil
}

// Exec runs one command.
func (s *service) Exec(ctx context.Context, stream guestv1.Agent_ExecServer) error {
	deepen(startDepth / 2)
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := s.ready(); err != nil {
		return err
	}
	if attach := req.GetAttach(); attach != nil {
		return s.attach(ctx, attach, stream)
	}
	start := req.GetStart()
	if start == nil {
		return status.Error(codes.InvalidArgument, "the first message of an exec is neither its start nor an attach")
	}
	command, err := s.o.Runner.Start(ctx, start)
	if err != nil {
		return refuse(stream, err)
	}
	timeout := time.Duration(start.GetTimeoutMs()) * time.Millisecond
	if start.GetDetach() {
		command.Detach(timeout)
		if err := stream.Send(started(command)); err != nil {
			return err
		}
		return last(stream, &guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Detached{Detached: &guestv1.ExecDetached{}}}, receive(stream))
	}
	session := command.Session(start.GetOutputCredit(), start.GetStdin(), stream.Send)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err = stream.Send(started(command)); err != nil {
		cancel(err)
	}
	go func() { cancel(session.Input(stream.Recv)) }() // ends with the call
	exited, err := session.Run(ctx, timeout)
	if err != nil {
		return err
	}
	return last(stream, &guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Exited{Exited: exited}}, ended(ctx))
}

// attach takes part in a command in the background.
func (s *service) attach(ctx context.Context, req *guestv1.ExecAttach, stream guestv1.Agent_ExecServer) error {
	command, err := s.o.Runner.Detached(req.GetId())
	if err != nil {
		return refuse(stream, err)
	}
	session := command.Session(req.GetOutputCredit(), req.GetStdin(), stream.Send)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := stream.Send(started(command)); err != nil {
		return err
	}
	go func() { cancel(session.Input(stream.Recv)) }() // ends with the call
	resp, err := session.Follow(ctx, req)
	if err != nil {
		return err
	}
	return last(stream, resp, ended(ctx))
}

func started(c *exec.Command) *guestv1.ExecResponse {
	return &guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Started{Started: &guestv1.ExecStarted{Pid: uint32(c.PID())}}}
}

// refuse tells the host why a command does not run.
func refuse(stream guestv1.Agent_ExecServer, err error) error {
	var why *exec.Error
	if !errors.As(err, &why) {
		return err
	}
	return last(stream, &guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Failed{Failed: &guestv1.ExecFailed{Reason: why.Reason, Message: why.Message}}}, receive(stream))
}

// last sends the last message, and waits until the host has ended its side of the stream too: the host may be sending still, and
// the RPC library would answer it that the stream has ended. Then the connection is ready for the next command.
func last(stream guestv1.Agent_ExecServer, r *guestv1.ExecResponse, hostEnds func() error) error {
	if err := stream.Send(r); err != nil {
		return err
	}
	if err := hostEnds(); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// ended waits for the end of a context that ends with what the host sends, and returns why it did.
func ended(ctx context.Context) func() error {
	return func() error {
		<-ctx.Done()
		return context.Cause(ctx)
	}
}

// receive drops what the host still sends.
func receive(stream guestv1.Agent_ExecServer) func() error {
	return func() error {
		for {
			if _, err := stream.Recv(); err != nil {
				return err
			}
		}
	}
}
