package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Rival is something else that runs commands apart from the host, measured beside agentkernel in the same run. What it makes is
// made of this host's static busybox, since no registry may be in reach.
type Rival interface {
	// Name is "docker" or "runsc".
	Name() string
	// Run makes a container, runs true in it and removes it.
	Run(ctx context.Context) (time.Duration, error)
	// Exec runs true in a container that runs; the first call starts that.
	Exec(ctx context.Context) (time.Duration, error)
	// Close removes all that was made.
	Close() error
}

// Rivals are the names that NewRival knows.
var rivals = []string{"docker", "runsc"}

// NewRival makes ready what is needed to measure it.
func NewRival(ctx context.Context, name string) (Rival, error) {
	switch name {
	case "docker":
		return newDocker(ctx)
	case "runsc":
		return newRunsc(ctx)
	}
	return nil, sandbox.Errorf(sandbox.Invalid, "compare with "+strings.Join(rivals, " or "), "--compare %q is not known", name)
}

// timeCommand runs a program, which must succeed.
func timeCommand(ctx context.Context, name string, args ...string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return time.Since(began), nil
}

func unique() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return "agentkernel-bench-" + hex.EncodeToString(b[:])
}
