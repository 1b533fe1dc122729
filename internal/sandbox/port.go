package sandbox

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"
)

// DefaultHostIP is where ports of the host are listened on unless a user says otherwise: nobody else on the network.
const DefaultHostIP = "127.0.0.1"

// MaxPorts is how many ports a sandbox can publish.
const MaxPorts = 64

// Target is a server in a guest: a TCP port of its loopback device, or a unix socket.
type Target struct {
	GuestPort   int    `json:"guest_port,omitempty"`
	GuestSocket string `json:"guest_socket,omitempty"` // absolute path; instead of a port
}

// String is "8080" or "/run/app.sock".
func (t Target) String() string {
	if t.GuestSocket != "" {
		return t.GuestSocket
	}
	return strconv.Itoa(t.GuestPort)
}

// Validate checks that there is one target. The error is an *Error of kind Invalid.
func (t Target) Validate() error {
	const maxSocket = 107 // sun_path, less its zero: unix(7)
	switch {
	case t.GuestSocket != "" && t.GuestPort != 0:
		return Errorf(Invalid, "give one of them", "port %d and socket %q of the guest are two targets", t.GuestPort, t.GuestSocket)
	case t.GuestSocket != "" && (!path.IsAbs(t.GuestSocket) || len(t.GuestSocket) > maxSocket || strings.ContainsRune(t.GuestSocket, 0)):
		return Errorf(Invalid, fmt.Sprintf("give an absolute path of at most %d bytes", maxSocket), "%q is no socket of the guest", t.GuestSocket)
	case t.GuestSocket == "" && (t.GuestPort < 1 || t.GuestPort > 65535):
		return Errorf(Invalid, "use 1 to 65535", "there is no guest port %d", t.GuestPort)
	}
	return nil
}

// Port is a port of the host that leads to a server in a guest.
type Port struct {
	HostIP   string `json:"host_ip"`
	HostPort int    `json:"host_port"` // 0: one that is free
	Target
}

// Address is what to listen on.
func (p Port) Address() string { return net.JoinHostPort(p.HostIP, strconv.Itoa(p.HostPort)) }

// Validate checks p. The error is an *Error of kind Invalid.
func (p Port) Validate() error {
	if _, err := netip.ParseAddr(p.HostIP); err != nil {
		return Errorf(Invalid, "use one such as 127.0.0.1, 0.0.0.0 (everybody on the network) or [::1]", "%q is not an IP address of this host", p.HostIP)
	}
	if p.HostPort < 0 || p.HostPort > 65535 {
		return Errorf(Invalid, "use 0 to 65535", "there is no host port %d", p.HostPort)
	}
	return p.Target.Validate()
}

// Binding is a Port that is listened on while the sandbox runs.
type Binding struct {
	Port         // with the host port that is in use
	Error string `json:"error,omitempty"` // why it is not listened on, since a daemon took the sandbox over
}

// ParsePort reads [[HOST:]PORT:]GUEST, where HOST is an IP address, with brackets when it has colons, and GUEST is a port or
// the absolute path of a unix socket. A PORT that is empty or 0 is one that is free; one that is left out is same's choice:
// the guest's own for true, else one that is free. "/tcp" at the end is allowed, as docker writes it.
func ParsePort(s string, same bool) (Port, error) {
	bad := func(why string) (Port, error) {
		return Port{}, Errorf(Invalid, "write it as 8080:80, 127.0.0.1:8080:80, 0:80 (a free port) or 8080:/run/app.sock", "%q is not [HOST:]PORT:GUEST: %s", s, why)
	}
	p := Port{HostIP: DefaultHostIP}
	rest, guest := "", s
	if i := strings.Index(s, ":/"); i >= 0 { // the path may have colons
		rest, guest = s[:i], s[i+1:]
	} else if i := strings.LastIndexByte(s, ':'); i >= 0 {
		rest, guest = s[:i], s[i+1:]
	}
	if strings.HasPrefix(guest, "/") {
		p.GuestSocket = guest
	} else {
		number, proto, _ := strings.Cut(guest, "/")
		if proto != "" && proto != "tcp" {
			return bad("only TCP is carried")
		}
		n, ok := portNumber(number)
		if !ok || n == 0 {
			return bad("the guest's port is not 1 to 65535")
		}
		p.GuestPort = n
	}
	if guest == s { // nothing of the host's
		if same {
			p.HostPort = p.GuestPort
		}
		return p, p.Validate()
	}
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		host := rest[:i]
		rest = rest[i+1:]
		if inner, ok := strings.CutPrefix(host, "["); ok {
			host = strings.TrimSuffix(inner, "]")
		} else if strings.Contains(host, ":") {
			return bad("an IPv6 address needs brackets")
		}
		p.HostIP = host
	}
	if rest != "" {
		n, ok := portNumber(rest)
		if !ok {
			return bad("the host's port is not 0 to 65535")
		}
		p.HostPort = n
	}
	return p, p.Validate()
}

func portNumber(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err == nil
}

// validatePorts checks what a sandbox publishes.
func validatePorts(ports []Port) error {
	if len(ports) > MaxPorts {
		return Errorf(Invalid, fmt.Sprintf("publish at most %d", MaxPorts), "%d published ports are too many", len(ports))
	}
	seen := map[string]bool{}
	for _, p := range ports {
		if err := p.Validate(); err != nil {
			return err
		}
		if p.HostPort != 0 && seen[p.Address()] {
			return Errorf(Invalid, "publish each host port once", "host port %s is published twice", p.Address())
		}
		seen[p.Address()] = true
	}
	return nil
}
