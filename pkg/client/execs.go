package client

import (
	"context"
	"net/url"
	"strconv"
	"time"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
)

// ExecInfo is a command that runs in a sandbox, or that did so not long ago.
type ExecInfo = apiv1.ExecInfo

// Execs tells of the commands of a sandbox in the order of their starts.
func (c *Client) Execs(ctx context.Context, name string) ([]ExecInfo, error) {
	resp, err := c.api.ListExecs(ctx, name)
	var list apiv1.ExecList
	err = result(resp, err, &list)
	return list.Execs, err
}

// ExecInfo tells of one command, by its id or an unambiguous beginning of it.
func (c *Client) ExecInfo(ctx context.Context, name, id string) (info ExecInfo, err error) {
	resp, err := c.api.GetExec(ctx, name, id)
	return info, result(resp, err, &info)
}

// SignalExec sends a signal, by its Linux number, to the process group of a command; SIGKILL to all that came of it.
func (c *Client) SignalExec(ctx context.Context, name, id string, signal int) error {
	resp, err := c.api.SignalExec(ctx, name, id, &apiv1.SignalExecParams{Signal: signal})
	return result(resp, err, nil)
}

// WaitExec waits until a command that was started in the background has ended, or ctx has.
func (c *Client) WaitExec(ctx context.Context, name, id string) (ExecInfo, error) {
	timeout := int(time.Hour.Milliseconds())
	for {
		resp, err := c.api.WaitExec(ctx, name, id, &apiv1.WaitExecParams{TimeoutMs: &timeout})
		var info ExecInfo
		if err := result(resp, err, &info); err != nil || info.EndedAt != nil {
			return info, err
		}
	}
}

// AttachOptions say how to take part in a command in the background.
type AttachOptions struct {
	History bool // first what is kept of its output
	Follow  bool // then what comes, until its end; else only what is kept
}

// Attach takes part in a command that was started in the background, until its end or that of ctx: the command does not
// notice. Stdin, when it is set, is sent until its end, which is that of the command's stdin as well.
func (c *Client) Attach(ctx context.Context, name, id string, o AttachOptions, streams ExecIO) (Exit, error) {
	q := url.Values{"stdin": {strconv.FormatBool(streams.Stdin != nil)}, "history": {strconv.FormatBool(o.History)}, "follow": {strconv.FormatBool(o.Follow)}}
	return c.execSession(ctx, "/v1/sandboxes/"+url.PathEscape(name)+"/execs/"+url.PathEscape(id)+"/attach?"+q.Encode(), nil, streams)
}
