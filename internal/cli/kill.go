package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// linuxSignals are the names of the guest's signals, whatever the host is: signal(7), by number.
var linuxSignals = strings.Fields("HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS")

// parseSignal reads a signal's name, with or without SIG, or its number.
func parseSignal(s string) (int, error) {
	if n, err := strconv.Atoi(s); err == nil && n >= 1 && n <= 64 {
		return n, nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	for i, known := range linuxSignals {
		if name == known {
			return i + 1, nil
		}
	}
	return 0, sandbox.Errorf(sandbox.Invalid, "use a name such as TERM, or a number from 1 to 64", "%q is not a signal", s)
}

func killCommand(e *env) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "kill NAME ID…", Short: "Send a signal to commands that run in a sandbox", Args: cobra.MinimumNArgs(2),
		Long: "Send a signal, SIGTERM unless -s says another one, to the process groups of commands that run in a sandbox. SIGKILL ends\n" +
			"all processes that came of a command, whatever group they are in. (agentkernel stop ends a sandbox.)",
		Example: "  agentkernel kill my-project 3f9a\n  agentkernel kill -s KILL my-project $(agentkernel ps -q my-project)",
		RunE: func(cmd *cobra.Command, args []string) error {
			signal, err := parseSignal(name)
			if err != nil {
				return err
			}
			c, err := e.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			for _, id := range args[1:] {
				if err := c.SignalExec(cmd.Context(), args[0], id, signal); err != nil {
					return err
				}
				if e.json {
					err = e.printJSON(map[string]any{"id": id, "signal": signal})
				} else {
					_, err = fmt.Fprintln(e.out, id)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&name, "signal", "s", "TERM", "signal, by name or number")
	return cmd
}

func waitCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "wait NAME ID…", Short: "Wait for commands in the background to end, and print their exit codes", Args: cobra.MinimumNArgs(2),
		Long: "Wait for commands that were started by exec -d to end, and print their exit codes, 128+n for one that a signal ended.",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			for _, id := range args[1:] {
				info, err := c.WaitExec(cmd.Context(), args[0], id)
				if err != nil {
					return err
				}
				if e.json {
					err = e.printJSON(info)
				} else {
					_, err = fmt.Fprintln(e.out, exitStatus(info))
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
}
