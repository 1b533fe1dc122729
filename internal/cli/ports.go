package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/portforward"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/transport/duplex"
	"github.com/agentkernel/agentkernel/pkg/client"
)

func portForwardCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "port-forward NAME [[HOST:]PORT:]GUEST…", Short: "Listen on ports of the host that lead to servers in a sandbox, until Ctrl-C",
		Long: "Listen on ports of the host that lead to servers in a running sandbox, until Ctrl-C. GUEST is a TCP port of the guest's loopback\n" +
			"device or the absolute path of a unix socket. HOST is an address of this host, 127.0.0.1 unless given. A PORT of 0, or an empty\n" +
			"one, takes a port that is free; one that is left out is GUEST's own.\n\n" +
			"The ports stay when the sandbox or the daemon restarts. A connection that is made while the server cannot be reached is reset,\n" +
			"and stderr says why.",
		Example: "  agentkernel port-forward my-project 8080:80\n  agentkernel port-forward my-project 0.0.0.0:0:3000 5432",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var ports []sandbox.Port
			for _, arg := range args[1:] {
				port, err := sandbox.ParsePort(arg, true)
				if err != nil {
					return err
				}
				ports = append(ports, port)
			}
			return e.portForward(cmd.Context(), args[0], ports)
		},
	}
}

// forwarding is a line of port-forward's output.
type forwarding struct {
	Address string `json:"address"`
	sandbox.Target
}

func (e *env) portForward(ctx context.Context, name string, ports []sandbox.Port) error {
	c, err := e.connect(ctx)
	if err != nil {
		return err
	}
	d := &sandboxDialer{e: e, name: name, client: c}
	defer d.close()
	sb, err := c.Get(ctx, name)
	if err != nil {
		return err
	}
	if sb.State != apiv1.SandboxStateRunning {
		return sandbox.Errorf(sandbox.Conflict, "start it with agentkernel start "+name, "sandbox %q is %s, not running", name, sb.State)
	}
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()
	for _, port := range ports {
		l, err := portforward.Listen(ctx, port.Address())
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
	}
	var said sync.Mutex // one line at a time
	report := func(err error) {
		_, message, hint := describe(err)
		if hint != "" {
			hint = "; " + hint
		}
		said.Lock()
		defer said.Unlock()
		fmt.Fprintf(e.errOut, "agentkernel: %s%s\n", message, hint)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var serving sync.WaitGroup
	for i, l := range listeners {
		target := ports[i].Target
		if err := e.forwards(l.Addr(), target); err != nil {
			return err
		}
		serving.Go(func() {
			dial := func(ctx context.Context) (duplex.Conn, error) { return d.dial(ctx, target) }
			cancel(portforward.Serve(ctx, l, dial, report)) // the others end with the first that fails
		})
	}
	serving.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil // Ctrl-C is how it ends
}

// forwards says what is listened on.
func (e *env) forwards(addr net.Addr, target sandbox.Target) error {
	if e.json {
		return e.printJSON(forwarding{addr.String(), target})
	}
	_, err := fmt.Fprintf(e.out, "Forwarding from %s -> %s\n", addr, target)
	return err
}

// sandboxDialer connects to servers in a sandbox, through another daemon when the one that it knows is gone.
type sandboxDialer struct {
	e    *env
	name string

	mu     sync.Mutex
	client *client.Client
}

func (d *sandboxDialer) dial(ctx context.Context, target sandbox.Target) (*client.Conn, error) {
	d.mu.Lock()
	c := d.client
	d.mu.Unlock()
	conn, err := dialTarget(ctx, c, d.name, target)
	var answered *client.Error
	if err == nil || errors.As(err, &answered) || ctx.Err() != nil {
		return conn, err
	}
	if c, err = d.another(ctx, c); err != nil {
		return nil, err
	}
	return dialTarget(ctx, c, d.name, target)
}

// another replaces a client whose daemon does not answer.
func (d *sandboxDialer) another(ctx context.Context, old *client.Client) (*client.Client, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.client != old {
		return d.client, nil
	}
	c, err := d.e.connect(ctx)
	if err != nil {
		return nil, err
	}
	old.Close()
	d.client = c
	return c, nil
}

func (d *sandboxDialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.client.Close()
}

func dialTarget(ctx context.Context, c *client.Client, name string, target sandbox.Target) (*client.Conn, error) {
	if target.GuestSocket != "" {
		return c.DialSocket(ctx, name, target.GuestSocket)
	}
	return c.Dial(ctx, name, target.GuestPort)
}

func portCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "port NAME [GUEST]", Short: "Show the published ports of a sandbox, or where one of them leads from",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			sb, err := c.Get(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			guest := ""
			if len(args) == 2 {
				guest = strings.TrimSuffix(args[1], "/tcp")
			}
			found := []client.PublishedPort{}
			for _, p := range published(sb) {
				if guest == "" || guest == target(p) {
					found = append(found, p)
				}
			}
			if guest != "" && len(found) == 0 {
				return sandbox.Errorf(sandbox.NotFound, "agentkernel port-forward "+args[0]+" "+guest+" forwards it for a while", "sandbox %q does not publish %s", args[0], guest)
			}
			if e.json {
				return e.printJSON(found)
			}
			for _, p := range found {
				line := listens(p)
				if guest == "" {
					line = target(p) + " -> " + line
				}
				fmt.Fprintln(e.out, line)
			}
			return nil
		},
	}
}

func published(sb client.Sandbox) []client.PublishedPort {
	if sb.Ports == nil {
		return nil
	}
	return *sb.Ports
}

func target(p client.PublishedPort) string {
	t := sandbox.Target{}
	if p.GuestPort != nil {
		t.GuestPort = *p.GuestPort
	}
	if p.GuestSocket != nil {
		t.GuestSocket = *p.GuestSocket
	}
	return t.String()
}

// listens is where a published port is listened on, or why it is not.
func listens(p client.PublishedPort) string {
	address := net.JoinHostPort(p.HostIp, fmt.Sprint(p.HostPort))
	switch {
	case p.Error != nil:
		return address + " (" + *p.Error + ")"
	case !p.Listening:
		return address + " (when it runs)"
	}
	return address
}

// portList is the column of list: what can be connected to now.
func portList(sb client.Sandbox) string {
	var list []string
	for _, p := range published(sb) {
		if p.Listening {
			list = append(list, listens(p)+"->"+target(p))
		}
	}
	if list == nil {
		return "-"
	}
	return strings.Join(list, ", ")
}

// publishRequest reads the values of --publish.
func publishRequest(values []string) (*[]client.Port, error) {
	if len(values) == 0 {
		return nil, nil
	}
	var list []client.Port
	for _, value := range values {
		p, err := sandbox.ParsePort(value, false)
		if err != nil {
			return nil, err
		}
		port := client.Port{HostIp: &p.HostIP, HostPort: &p.HostPort}
		if p.GuestSocket != "" {
			port.GuestSocket = &p.GuestSocket
		} else {
			port.GuestPort = &p.GuestPort
		}
		list = append(list, port)
	}
	return &list, nil
}
