package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/pkg/client"
)

func runCommand(e *env) *cobra.Command {
	var create createFlags
	var exec execFlags
	cmd := &cobra.Command{
		Use: "run [flags] [--] COMMAND [ARG…]", Short: "Create a sandbox, run one command in it, and remove it",
		Example: "  agentkernel run --image base -- uname -a",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			start, err := exec.start(args)
			if err != nil {
				return err
			}
			req, err := create.request(cmd, runName())
			if err != nil {
				return err
			}
			return e.run(cmd.Context(), req, start, &exec)
		},
	}
	create.register(cmd)
	exec.register(cmd)
	return cmd
}

func runName() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return "run-" + hex.EncodeToString(b[:])
}

func (e *env) run(ctx context.Context, req client.CreateRequest, start client.ExecStart, f *execFlags) (err error) {
	sb, err := e.create(ctx, req)
	if err != nil {
		return err
	}
	// Whatever happens from here on, Ctrl-C included, the sandbox is removed.
	c, err := e.connect(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	defer c.Close()
	defer func() {
		if rmErr := c.Remove(context.WithoutCancel(ctx), sb.Name, true); rmErr != nil {
			err = errors.Join(err, fmt.Errorf("remove sandbox %q: %w", sb.Name, rmErr))
		}
	}()
	if _, err := c.Start(ctx, sb.Name, client.StartOptions{}); err != nil {
		return err
	}
	return e.exec(c, sb.Name, start, f)
}
