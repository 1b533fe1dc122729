package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/coder/websocket"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/transport/wsstream"
)

// The types of ports, described in api/openapi.yaml.
type (
	// Port is one to publish.
	Port = apiv1.Port
	// PublishedPort is a port of the host that leads into a sandbox.
	PublishedPort = apiv1.PublishedPort
)

// Conn is a connection to a server in a sandbox. It is a net.Conn with CloseWrite, which ends the caller's direction, and
// Break, which resets the connection.
type Conn = wsstream.Conn

// Dial connects to a TCP port of a running sandbox's loopback device. ctx bounds the attempt.
func (c *Client) Dial(ctx context.Context, name string, port int) (*Conn, error) {
	return c.dial(ctx, name, "port", strconv.Itoa(port))
}

// DialSocket connects to a unix socket of a running sandbox, by its absolute path. ctx bounds the attempt.
func (c *Client) DialSocket(ctx context.Context, name, path string) (*Conn, error) {
	return c.dial(ctx, name, "socket", path)
}

func (c *Client) dial(ctx context.Context, name, key, value string) (*Conn, error) {
	query := url.Values{key: {value}}.Encode()
	ws, resp, err := websocket.Dial(ctx, baseURL+"/v1/sandboxes/"+url.PathEscape(name)+"/dial?"+query, &websocket.DialOptions{
		HTTPClient: c.http, Subprotocols: []string{wsstream.Protocol}, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
			defer resp.Body.Close()
			return nil, failure(resp)
		}
		return nil, err
	}
	return wsstream.New(ws), nil
}
