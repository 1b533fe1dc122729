package guestrpc

import (
	"context"
	"errors"
	"fmt"
	"time"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
)

// Limits of a list. An honest guest tells of at most 64 commands that have ended, of those that run, and of 64 at a time.
const (
	maxListed = 16384
	maxPage   = 64
	maxArgv   = 256 // bytes and arguments of a command
	// maxListSize bounds what a list takes, in bytes, about. Together the others allow far more than an honest guest sends.
	maxListSize = 4 << 20
)

// ExecInfo is a command that runs in the guest, or did so not long ago. Texts are printable.
type ExecInfo struct {
	ID       string
	PID      uint32
	Argv     []string // the beginning of it
	User     string
	Detached bool
	Terminal bool
	Started  time.Time // by the guest's clock, as Ended
	Ended    time.Time // zero when it runs
	Exited   Exited    // when it has ended
	// Stayed says that its client is connected to the microVM that this one is a copy of: there it goes on.
	Stayed bool
}

// size is about how much memory it takes, in bytes.
func (e *ExecInfo) size() int {
	size := 128 + len(e.ID) + len(e.User)
	for _, a := range e.Argv {
		size += 16 + len(a)
	}
	return size
}

// List tells of the commands in the guest, in the order of their starts.
func (c *Client) List(ctx context.Context) ([]ExecInfo, error) {
	var list []ExecInfo
	size := 0
	for after := uint64(0); ; {
		var resp *guestv1.ListResponse
		err := c.call(ctx, "list the commands", func(ctx context.Context) (err error) {
			resp, err = c.agent.List(ctx, &guestv1.ListRequest{After: after})
			return err
		})
		if err != nil {
			return nil, err
		}
		if len(resp.GetExecs()) > maxPage || len(list) > maxListed || resp.GetMore() && len(resp.GetExecs()) == 0 {
			return nil, fmt.Errorf("list the commands: the guest tells of %d at once, after %d", len(resp.GetExecs()), len(list))
		}
		for _, m := range resp.GetExecs() {
			if m.GetNumber() <= after {
				return nil, errors.New("list the commands: the guest does not tell of them in order")
			}
			after = m.GetNumber()
			info, err := checkInfo(m)
			if err != nil {
				return nil, fmt.Errorf("list the commands: %w", err)
			}
			if size += info.size(); size > maxListSize {
				return nil, fmt.Errorf("list the commands: the guest tells of more than %d bytes of them", maxListSize)
			}
			list = append(list, info)
		}
		if !resp.GetMore() {
			return list, nil
		}
	}
}

func checkInfo(m *guestv1.ExecInfo) (info ExecInfo, err error) {
	if len(m.GetId()) > maxText || len(m.GetUser()) > maxText || len(m.GetArgv()) > maxArgv {
		return info, errors.New("the guest tells of a command with texts that are too long")
	}
	info = ExecInfo{ID: clean(m.GetId()), PID: m.GetPid(), User: clean(m.GetUser()), Detached: m.GetDetached(), Terminal: m.GetTerminal(), Stayed: m.GetStayed(), Started: time.Unix(0, m.GetStartedUnixNs())}
	size := 0
	for _, a := range m.GetArgv() {
		if size += len(a); size > maxArgv {
			return info, errors.New("the guest tells of a command with arguments that are too long")
		}
		info.Argv = append(info.Argv, clean(a))
	}
	if m.GetEndedUnixNs() == 0 {
		return info, nil
	}
	info.Ended = time.Unix(0, m.GetEndedUnixNs())
	info.Exited, err = checkExit(m.GetExited())
	return info, err
}
