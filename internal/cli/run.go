package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/pkg/client"
)

func runCommand(e *env) *cobra.Command {
	var create createFlags
	var exec execFlags
	var entrypoint string
	var cold bool
	cmd := &cobra.Command{
		Use: "run [flags] [--] [COMMAND] [ARG…]", Short: "Create a sandbox, run one command in it, and remove it",
		Long: "Create a sandbox, run one command in it, and remove it. As with docker run, a container image's ENTRYPOINT comes before the\n" +
			"command, and its CMD takes the place of a command that is left out; its ENV, WORKDIR and USER hold where no flag says otherwise.",
		Example: "  agentkernel run --image base -- uname -a\n  agentkernel run --image python:3.12-alpine -- python3 -c 'print(1)'",
		RunE: func(cmd *cobra.Command, args []string) error {
			start, err := exec.start(args)
			if err != nil {
				return err
			}
			var own *string
			if cmd.Flags().Changed("entrypoint") {
				own = &entrypoint
			}
			req, err := create.request(e, cmd, runName())
			if err != nil {
				return err
			}
			return e.run(cmd.Context(), req, cold, start, own, &exec)
		},
	}
	create.register(cmd)
	exec.register(cmd)
	cmd.Flags().BoolVar(&cold, "cold", false, "boot, whatever template or ready microVM there is")
	cmd.Flags().StringVar(&entrypoint, "entrypoint", "", "program in place of the image's ENTRYPOINT and CMD; empty for none")
	return cmd
}

func runName() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return "run-" + hex.EncodeToString(b[:])
}

// command is what to run in a sandbox: args after the image's entrypoint, or after another one.
func command(sb client.Sandbox, entrypoint *string, args []string) ([]string, error) {
	config := &sandbox.ImageConfig{}
	if c := sb.ImageConfig; c != nil && c.Entrypoint != nil {
		config.Entrypoint = *c.Entrypoint
	}
	if c := sb.ImageConfig; c != nil && c.Cmd != nil {
		config.Cmd = *c.Cmd
	}
	if entrypoint != nil {
		config = &sandbox.ImageConfig{}
		if *entrypoint != "" {
			config.Entrypoint = []string{*entrypoint}
		}
	}
	argv := config.Command(args)
	if len(argv) == 0 {
		return nil, sandbox.Errorf(sandbox.Invalid, "give one: agentkernel run … -- COMMAND", "there is no command to run, and image %q names none", sb.Image)
	}
	return argv, nil
}

func (e *env) run(ctx context.Context, req client.CreateRequest, cold bool, start client.ExecStart, entrypoint *string, f *execFlags) (err error) {
	c, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	sb, err := e.createWith(ctx, c, req)
	if err != nil {
		return err
	}
	// Whatever happens from here on, Ctrl-C included, the sandbox is removed.
	defer func() {
		if rmErr := c.Remove(context.WithoutCancel(ctx), sb.Name, true); rmErr != nil {
			err = errors.Join(err, fmt.Errorf("remove sandbox %q: %w", sb.Name, rmErr))
		}
	}()
	if start.Argv, err = command(sb, entrypoint, start.Argv); err != nil {
		return err
	}
	if _, err := c.Start(ctx, sb.Name, client.StartOptions{Cold: cold}); err != nil {
		return err
	}
	return e.exec(c, sb.Name, start, f)
}
