package httpapi

import (
	"net/http"
	"strings"

	"github.com/coder/websocket"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/transport/duplex"
	"github.com/agentkernel/agentkernel/internal/transport/wsstream"
)

// Dial connects to a server in a sandbox over a WebSocket; the messages are described in the API document.
func (h *handler) Dial(w http.ResponseWriter, r *http.Request, name apiv1.Name, params apiv1.DialParams) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		h.fail(w, r, sandbox.Errorf(sandbox.Invalid, "connect with a WebSocket client", "dial speaks WebSocket, and this request does not ask for it"))
		return
	}
	guest, err := h.Manager.Dial(r.Context(), name, sandbox.Target{GuestPort: deref(params.Port), GuestSocket: deref(params.Socket)})
	if err != nil {
		h.fail(w, r, err)
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{wsstream.Protocol}, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		_ = guest.Close()
		h.Log.Debug("accept a connection to a server", "sandbox", name, "err", err)
		return
	}
	if err := duplex.Join(r.Context(), wsstream.New(ws), guest); err != nil {
		h.Log.Debug("a connection to a server broke", "sandbox", name, "err", err)
	}
}

// ports reads what a sandbox is to publish.
func ports(list *[]apiv1.Port) []sandbox.Port {
	var ports []sandbox.Port
	for _, p := range deref(list) {
		ports = append(ports, sandbox.Port{
			HostIP: or(p.HostIp, sandbox.DefaultHostIP), HostPort: or(p.HostPort, 0),
			Target: sandbox.Target{GuestPort: or(p.GuestPort, 0), GuestSocket: or(p.GuestSocket, "")},
		})
	}
	return ports
}

// viewPorts is what a sandbox publishes, as far as it is listened on now.
func viewPorts(rec sandbox.Record) *[]apiv1.PublishedPort {
	if len(rec.Spec.Publish) == 0 {
		return nil
	}
	list := make([]apiv1.PublishedPort, 0, len(rec.Spec.Publish))
	add := func(p sandbox.Port, listening bool, problem string) {
		v := apiv1.PublishedPort{HostIp: p.HostIP, HostPort: p.HostPort, GuestSocket: optional(p.GuestSocket), Listening: listening, Error: optional(problem)}
		if p.GuestPort != 0 {
			v.GuestPort = &p.GuestPort
		}
		list = append(list, v)
	}
	for _, b := range rec.Bindings {
		add(b.Port, b.Error == "", b.Error)
	}
	if rec.Bindings == nil {
		for _, p := range rec.Spec.Publish {
			add(p, false, "")
		}
	}
	return &list
}
