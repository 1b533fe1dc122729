package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/pkg/client"
)

func TestMebibytes(t *testing.T) {
	for s, want := range map[string]int{"512": 512, "512M": 512, "512m": 512, "2G": 2048, "2GiB": 2048, "1024K": 1, "0": 0} {
		if got, err := mebibytes("--memory", s); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "lots", "-1", "-1M", "1.0001M", "1K", "99999999999999999999G", "M"} {
		if got, err := mebibytes("--memory", s); sandbox.KindOf(err) != sandbox.Invalid {
			t.Errorf("%q: %d, %v; want an invalid error", s, got, err)
		}
	}
}

func TestExit(t *testing.T) {
	ctx := context.Background()
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	for _, tc := range []struct {
		ctx  context.Context
		err  error
		code int
		says string
	}{
		{ctx, nil, 0, ""},
		{ctx, exitError(7), 7, ""},
		{ctx, fmt.Errorf("outer: %w", exitError(137)), 137, ""},
		{ctx, errors.New("oops"), 125, "agentkernel: oops\n"},
		{ctx, sandbox.Errorf(sandbox.Invalid, "do that", "this"), 125, "agentkernel: this\nhint: do that\n"},
		{ctx, &client.Error{Message: "remote", Hint: "do that"}, 125, "agentkernel: remote\nhint: do that\n"},
		{ctx, &client.ExecError{Cause: &client.Error{Message: "no such command"}, Status: 127}, 127, "agentkernel: no such command\n"},
		{cancelled, fmt.Errorf("post: %w", context.Canceled), 130, "agentkernel: interrupted\n"},
	} {
		var errOut bytes.Buffer
		e := &env{errOut: &errOut}
		if code := e.exit(tc.ctx, tc.err); code != tc.code || errOut.String() != tc.says {
			t.Errorf("%v: exit code %d, said %q; want %d, %q", tc.err, code, errOut.String(), tc.code, tc.says)
		}
	}
}

func TestSafeWriter(t *testing.T) {
	var out strings.Builder
	in := "a\x1b]0;title\x07b\r\nc\td\x7f\x00é"
	if n, err := (safeWriter{&out}).Write([]byte(in)); n != len(in) || err != nil {
		t.Error(n, err)
	}
	if got, want := out.String(), "a]0;titleb\nc\tdé"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Every command can be made, and says what it is for.
// TestSubcommands compares the names by which commands are found before they are made with the ones that they have.
func TestSubcommands(t *testing.T) {
	all := subcommands()
	for _, c := range all {
		root := newRoot(&env{}, []string{c.name, "--help"})
		if made := root.Commands(); len(made) != 1 || made[0].Name() != c.name || made[0].Short == "" || !root.ContainsGroup(made[0].GroupID) {
			t.Errorf("%s makes %d commands, the first is %s (%q) of group %q", c.name, len(made), made[0].Name(), made[0].Short, made[0].GroupID)
		}
	}
	for _, args := range [][]string{nil, {"--json", "list"}, {"ls"}, {"help", "exec"}, {"exex"}} {
		if made := newRoot(&env{}, args).Commands(); len(made) != len(all) {
			t.Errorf("%q: %d commands, not %d", args, len(made), len(all))
		}
	}
}
