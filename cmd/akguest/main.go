// Akguest is the guest agent: PID 1 of every microVM. Its kernel starts it from the initramfs.
//
// It makes the sandbox's root file system, then answers the host on a virtio-serial port, on vsock, or both. A step of the
// boot that fails is told on the console, and ends the microVM.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/guest/agent"
	"github.com/agentkernel/agentkernel/internal/guest/boot"
	"github.com/agentkernel/agentkernel/internal/guest/bulk"
	"github.com/agentkernel/agentkernel/internal/guest/exec"
	"github.com/agentkernel/agentkernel/internal/guest/files"
	"github.com/agentkernel/agentkernel/internal/guest/forward"
	"github.com/agentkernel/agentkernel/internal/guest/identity"
	"github.com/agentkernel/agentkernel/internal/guest/power"
	"github.com/agentkernel/agentkernel/internal/guest/reaper"
	"github.com/agentkernel/agentkernel/internal/guest/stats"
	"github.com/agentkernel/agentkernel/internal/guest/stream"
	"github.com/agentkernel/agentkernel/internal/transport/guestlink"
	"github.com/agentkernel/agentkernel/internal/transport/preamble"
	"github.com/agentkernel/agentkernel/internal/transport/virtioport"
	"github.com/agentkernel/agentkernel/internal/transport/vsock"
)

// build is set by the linker: scripts/build-guest.sh.
var build = "unknown"

// port is where the agent listens, on vsock and on the serial link, and streamPort where it serves streams; readyPort is the
// host's, for the event that it does on
// vsock, where a host's attempt to connect would be refused before. Package sandbox of the host has the same numbers.
const (
	port       = 1024
	readyPort  = 1025
	streamPort = 1026
)

func main() {
	began := uptime()
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "akguest is the first process of a microVM, and does nothing elsewhere")
		os.Exit(2)
	}
	giveUp(run(began))
}

// giveUp says why on the console and resets the microVM. Were this process to end instead, the kernel would panic, and bury
// the reason under its stack.
func giveUp(err error) {
	fmt.Fprintln(os.Stdout, "agentkernel: cannot go on:", err)
	_ = unix.IoctlSetInt(int(os.Stdout.Fd()), unix.TCSBRK, 1) // tcdrain(3): wait until the console has sent it
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	os.Exit(1) // the kernel panics, and resets the microVM: panic=-1
}

func run(began time.Duration) error {
	growFreely()
	if err := log.SetLevel("panic"); err != nil { // what the RPC library says of connections that end
		return fmt.Errorf("silence the RPC library: %w", err)
	}
	params, err := boot.Begin()
	if err != nil {
		return err
	}
	if err := calmMonitor(); err != nil {
		return err
	}
	r := reaper.New()
	go r.Run()
	control, streams, failed, err := listen(params)
	if err != nil {
		return err
	}
	root, err := newRoot(params)
	if err != nil {
		return err
	}
	runner, err := exec.NewRunner(r)
	if err != nil {
		return err
	}
	var enter func([]*guestv1.ResumeDisk) error
	if params.Template {
		enter = root.enter
		if err := root.warm(runner); err != nil {
			return err
		}
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("ask for the kernel's version: %w", err)
	}
	go func() {
		failed <- agent.Serve(context.Background(), agent.Options{
			Runner: runner, Machine: identity.System{Own: root.Own}, Enter: enter, Build: build, Stats: stats.Source{Proc: "/proc", Upper: root.Upper},
			Kernel: unix.ByteSliceToString(name.Release[:]), Arch: unix.ByteSliceToString(name.Machine[:]),
			Init: began, Ready: uptime(),
			Shutdown: func(grace time.Duration) { failed <- power.Off(r, root.Writable(), grace, os.Stdout) },
		}, control...)
	}()
	copies := files.Service{Bulk: bulk.New(root.Upper)}
	handlers := stream.Handlers{"forward": root.onceWhole(forward.Handle), "files": root.onceWhole(copies.Handle)}
	go func() { failed <- handlers.Serve(context.Background(), streams...) }()
	return <-failed
}

// listen opens the channels that this microVM has, with a listener for control and one for streams on each. The serial port
// is opened before the disks are mounted, so that the host's first bytes come in meanwhile. What ends a channel later is sent
// to failed.
func listen(p boot.Params) (control, streams []net.Listener, failed chan error, err error) {
	failed = make(chan error, 5) // one for each sender, so that none waits
	both := func(listen func(port uint32) (net.Listener, error)) error {
		c, err := listen(port)
		if err != nil {
			return err
		}
		s, err := listen(streamPort)
		if err != nil {
			return err
		}
		control, streams = append(control, c), append(streams, s)
		return nil
	}
	if p.Link != "" {
		token, err := preamble.ParseToken(p.Link)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("read the kernel parameter agentkernel.link: %w", err)
		}
		serial, err := virtioport.Open("/sys", "/dev", preamble.PortName)
		if err != nil {
			return nil, nil, nil, err
		}
		mux := new(guestlink.Mux)
		if err := both(mux.Listen); err != nil {
			return nil, nil, nil, err
		}
		go func() { failed <- guestlink.Serve(serial, token, mux) }()
	}
	if vsock.Available() {
		if err := both(vsock.Listen); err != nil {
			return nil, nil, nil, err
		}
		// Most hosts do not listen, and those that do can wait: nothing here depends on it.
		go func() { _ = vsock.Knock(readyPort) }()
	}
	if len(control) == 0 {
		return nil, nil, nil, errors.New("this microVM has neither a serial link (agentkernel.link) nor vsock: the host cannot be reached")
	}
	return control, streams, failed, nil
}

// uptime is the time since the kernel's start: CLOCK_BOOTTIME.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
