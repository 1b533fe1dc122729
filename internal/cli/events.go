package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/pkg/client"
)

func eventsCommand(e *env) *cobra.Command {
	var o client.EventOptions
	var since, until string
	cmd := &cobra.Command{
		Use: "events", Short: "Show what happens to sandboxes, as it happens",
		Long: "Show what happens to sandboxes, as it happens, until Ctrl-C or --until: states, commands that start and end, processes\n" +
			"that the guest's kernel killed for want of memory, VMMs that end. With --json, each event is a line of JSON.\n\n" +
			"--since first shows what the daemon remembers: a time (2006-01-02T15:04:05Z), a duration before now (10m), or the number\n" +
			"of the last event that has been seen (seq in --json; 0 for all). --until takes a time, a duration before now, or now.",
		Example: "  agentkernel events --sandbox my-project --type exec.end\n  agentkernel events --since 1h --until now",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			now := time.Now()
			if since == "0" {
				o.Since = time.Unix(1, 0)
			} else if n, err := strconv.ParseInt(since, 10, 64); err == nil && n > 0 {
				o.SinceSeq = n
			} else if o.Since, err = when("--since", since, now); err != nil {
				return err
			}
			var err error
			if o.Until, err = when("--until", until, now); err != nil {
				return err
			}
			c, err := e.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			events, err := c.Events(cmd.Context(), o)
			if err != nil {
				return err
			}
			enc := json.NewEncoder(e.out)
			for ev, err := range events {
				if errors.Is(err, context.Canceled) && cmd.Context().Err() != nil {
					return nil // Ctrl-C is how it ends
				}
				if err != nil {
					return err
				}
				if e.json {
					err = enc.Encode(ev)
				} else {
					_, err = fmt.Fprintln(e.out, eventLine(ev))
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	fs := cmd.Flags()
	fs.StringArrayVar(&o.Sandboxes, "sandbox", nil, "only events of this sandbox; may be given more than once")
	fs.StringArrayVar(&o.Types, "type", nil, "only events of this type, such as exec.end; may be given more than once")
	fs.StringVar(&since, "since", "", "first show what is remembered since then")
	fs.StringVar(&until, "until", "", "end then")
	return cmd
}

// when reads a time, a duration before now, or "now". The empty string is the zero time.
func when(flag, s string, now time.Time) (time.Time, error) {
	switch s {
	case "":
		return time.Time{}, nil
	case "now":
		return now, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, sandbox.Errorf(sandbox.Invalid, "write it as 10m, now, or 2006-01-02T15:04:05Z", "%s %q is not a time", flag, s)
	}
	return t, nil
}

// eventLine is an event for people.
func eventLine(ev client.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", ev.Time.Local().Format("2006-01-02T15:04:05.000Z07:00"), ev.Type)
	word := func(s *string) {
		if s != nil {
			b.WriteString(" " + *s)
		}
	}
	field := func(name string, value any) { fmt.Fprintf(&b, " %s=%v", name, value) }
	word(ev.Sandbox)
	if ev.To != nil {
		if ev.From != nil {
			field("from", *ev.From)
		}
		field("to", *ev.To)
	}
	if ev.ExecId != nil {
		field("exec", *ev.ExecId)
	}
	if ev.Argv != nil {
		var words []string
		for _, a := range *ev.Argv {
			words = append(words, quoteWord(a))
		}
		field("argv", "["+strings.Join(words, " ")+"]")
	}
	if ev.Pid != nil {
		field("pid", *ev.Pid)
	}
	if ev.Process != nil {
		field("process", quoteWord(*ev.Process))
	}
	if ev.ExitCode != nil {
		field("exit_code", *ev.ExitCode)
	}
	if ev.Signal != nil {
		field("signal", *ev.Signal)
	}
	if ev.TimedOut != nil {
		field("timed_out", *ev.TimedOut)
	}
	if ev.DurationMs != nil {
		field("took", time.Duration(*ev.DurationMs*1e6).Round(100*time.Microsecond))
	}
	if ev.Count != nil {
		field("count", *ev.Count)
	}
	if ev.Reason != nil {
		field("reason", strconv.Quote(*ev.Reason))
	}
	return b.String()
}

// quoteWord leaves plain words alone and quotes the others, with what a terminal would obey escaped.
func quoteWord(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=:,+@%") == "" {
		return s
	}
	return strconv.Quote(s)
}
